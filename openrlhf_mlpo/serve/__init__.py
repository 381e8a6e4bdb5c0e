"""A leader with its team behind an OpenAI-compatible endpoint; `python3 -m openrlhf_mlpo.cli.serve` starts it."""
