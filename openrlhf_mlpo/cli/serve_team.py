"""Print a `vllm serve` command for each agent of a team file, and write the team file that asks those servers.

    python3 -m openrlhf_mlpo.cli.serve_team --team team.yaml --gpus "0 1 2,3" --endpoints endpoints.yaml

recipes/serve_team.sh runs what this prints.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from openrlhf_mlpo.cli.options import Parser
from openrlhf_mlpo.engines.ray import OWN_ARGS
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.files import write_whole
from openrlhf_mlpo.team import Agent, load_team

# Settings of an agent's engine that say how it runs here, and mean nothing to a server of its own.
_OURS = frozenset((*OWN_ARGS, "chat_template_kwargs", "disable_log_stats"))


def serve_command(agent: Agent, gpus: str, port: int) -> str:
    """The command that serves one agent on the GPUs `gpus` ("0" or "2,3"), with its engine's settings as flags."""
    settings = {name: value for name, value in agent.engine_args.items() if name not in _OURS}
    settings["tensor_parallel_size"] = gpus.count(",") + 1
    words = ["vllm", "serve", agent.model, "--host", "127.0.0.1", "--port", str(port)]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return f"CUDA_VISIBLE_DEVICES={gpus} {shlex.join(words)}"


def endpoint(agent: Agent, port: int) -> dict:
    """The entry of a team file that asks this agent's server."""
    entry = {"name": agent.name, "model": agent.model, "engine": "openai", "sampling": agent.sampling}
    entry["engine_args"] = {"base_url": f"http://127.0.0.1:{port}/v1"}
    return entry | {name: value for name in ("prompt", "system") if (value := getattr(agent, name))}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    agents, groups = load_team(args.team), args.gpus.split()
    if len(groups) != len(agents):
        raise UserError(
            f"--gpus {args.gpus!r}: {len(groups)} groups for the {len(agents)} agents of {args.team}; give one group "
            "for each, with blanks between groups and commas inside"
        )
    given = [gpu for group in groups for gpu in group.split(",")]
    if twice := sorted({gpu for gpu in given if given.count(gpu) > 1}):
        raise UserError(f"--gpus {args.gpus!r}: GPU {twice[0]} is given to two agents; vLLM takes most of its memory")
    import yaml

    entries = [endpoint(agent, args.port + number) for number, agent in enumerate(agents)]
    write_whole(Path(args.endpoints), [yaml.safe_dump({"agents": entries}, sort_keys=False)])
    for number, (agent, gpus) in enumerate(zip(agents, groups, strict=True)):
        print(serve_command(agent, gpus, args.port + number))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python3 -m openrlhf_mlpo.cli.serve_team", description=__doc__)
    add = parser.add_argument
    add("--team", required=True, help="team file (YAML) with the agents to serve")
    add("--gpus", required=True, help="GPUs by agent, in the file's order: blanks between agents, commas inside")
    add("--port", type=int, default=8100, help="port of the first agent, counted up for the others (default 8100)")
    add("--endpoints", required=True, help="team file to write, with an endpoint for each agent")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_cli(main)
