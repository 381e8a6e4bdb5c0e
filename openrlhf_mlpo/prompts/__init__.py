"""Prompts of leader and agents: templates, making untrusted text harmless, fitting a token budget."""
