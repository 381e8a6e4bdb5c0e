"""Serve a leader with its team behind an OpenAI-compatible endpoint.

    python3 -m openrlhf_mlpo.cli.serve --leader runs/math/leader --team team.yaml --rounds 3
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "leader-team", "messages": [{"role": "user", "content": "How many legs have three cats?"}]}'

Models: leader-team (rounds of team, then leader; early end once its answer repeats), leader (alone), vote (the team's
majority). Leader and agents run on any engine of a team file, in this process or behind endpoints of their own.
/v1/models, /health and /metrics (Prometheus) as well. See docs/serving.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from openrlhf_mlpo.cli.options import Parser, at_least
from openrlhf_mlpo.engines import Sampling, check_engine, make_engine
from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError, errors_at, run_cli
from openrlhf_mlpo.prompts.templates import SHOW_CHOICES, load_template
from openrlhf_mlpo.questions import TASKS
from openrlhf_mlpo.rounds import agent_player, as_leader
from openrlhf_mlpo.serve.app import Limits, make_app
from openrlhf_mlpo.serve.batching import Batcher
from openrlhf_mlpo.serve.protocol import Seat, Table
from openrlhf_mlpo.team import Agent, load_team, split_engine

REMOTE = ("openai", "callable")  # engines that answer several batches side by side
BATCHES = 8  # at a time, of such an engine


# fmt: off
def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = Parser(prog="python3 -m openrlhf_mlpo.cli.serve", description=__doc__)
    add = p.add_argument
    add("--leader", required=True, metavar="MODEL",
        help="model folder or hub name, or openai:MODEL, ray:MODEL, callable:FILE.py:FUNCTION")
    add("--team", required=True, metavar="TEAM.yaml", help="team file")
    add("--rounds", type=int, default=5, help="T, rounds at most (default 5, as in the paper)")
    add("--task", default="exact", choices=TASKS,
        help="in which form answers are compared, for votes and for the end of the rounds (default exact)")
    add("--template", default="chat", help="prompt template, as in training: chat, compact or a file (default chat)")
    add("--show", default="full", choices=SHOW_CHOICES, help="what the leader sees of a response (default full)")
    add("--temperature", type=float, default=0.0, help="of the leader where a request does not say (default 0, greedy)")
    add("--max_new_tokens", type=int, default=1024,
        help="tokens a leader may generate, and an agent whose team entry does not say (default 1024)")
    add("--max_prompt_tokens", type=int, default=0, help="of a prompt; 0: what a model's context leaves (default)")
    add("--engine_args", default="{}", metavar="JSON", help="engine arguments of the leader")
    add("--chat_template_kwargs", default="{}", metavar="JSON", help="variables of the leader's chat template")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default 127.0.0.1, this machine only)")
    add("--port", type=int, default=8000, help="port (default 8000)")
    add("--api_key_env", default="", metavar="NAME",
        help="environment variable that holds the key clients must send; needed where --host is not this machine")
    add("--max_body_bytes", type=int, default=1_000_000, help="larger requests are refused, 413 (default 1000000)")
    add("--max_requests", type=int, default=256, help="in flight; more are refused, 429 (default 256)")
    add("--request_seconds", type=float, default=600, help="time of a request, then 504 (default 600)")
    add("--agent_seconds", type=float, default=120, help="time of an agent's turn, then it is left out (default 120)")
    add("--seed", type=int, default=0, help="of samples and of the order in which responses are shown (default 0)")
    args = p.parse_args(argv)
    at_least(args, rounds=1, max_new_tokens=1, max_prompt_tokens=0, temperature=0, max_body_bytes=1, max_requests=1)
    at_least(args, request_seconds=0.001, agent_seconds=0.001, port=0)
    return args
# fmt: on


def key_of(args: argparse.Namespace) -> str | None:
    """The key that clients must send; raises UserError where it is missing though it is needed."""
    if not args.api_key_env:
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            raise UserError(
                f"--host {args.host}: others could use the server; name the variable with its key in --api_key_env"
            )
        return None
    key = os.environ.get(args.api_key_env, "").strip()
    if not key:
        raise UserError(f"--api_key_env {args.api_key_env}: the variable is not set, or empty")
    return key


def open_table(args: argparse.Namespace) -> Table:
    """The players with their engines open. Raises UserError; mistakes are found before the first engine starts."""
    template = load_template(args.template)
    engine, model = split_engine(args.leader)
    settings = json_object(args.engine_args, "--engine_args")
    if variables := json_object(args.chat_template_kwargs, "--chat_template_kwargs"):
        settings["chat_template_kwargs"] = variables
    leader = Agent(name="leader", model=model, engine=engine, engine_args=settings)
    agents = load_team(args.team)
    if any(agent.name == leader.name for agent in agents):
        raise UserError(f"{args.team}: an agent is named 'leader', as the leader is; name it otherwise")
    with errors_at(f"--leader {args.leader}: "):
        check_engine(leader.model, leader.engine, leader.engine_args)
    seats = []
    for agent in (leader, *agents):
        given = {"temperature": args.temperature} if agent is leader else agent.sampling
        where = f"agent {agent.name}: sampling"
        sampling = Sampling.from_dict({"max_tokens": args.max_new_tokens, **given}, where)
        seats.append((agent, agent_player(agent, None, sampling, max_prompt_tokens=args.max_prompt_tokens), sampling))
    as_leader(seats[0][1], template, args.show)
    local = ThreadPoolExecutor(1)
    opened = []
    for agent, player, sampling in seats:
        executor = ThreadPoolExecutor(BATCHES) if agent.engine in REMOTE else local
        opened.append(Seat(player, Batcher(partial(make_engine, agent), executor), sampling))
    return Table(opened[0], opened[1:], template, args.rounds, args.agent_seconds)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    key = key_of(args)
    import uvicorn

    table = open_table(args)
    limits = Limits(args.max_body_bytes, args.max_requests, args.request_seconds)
    app = make_app(table, task=args.task, limits=limits, seed=args.seed, key=key)
    print(f"serving {args.leader} with {len(table.team)} agents on http://{args.host}:{args.port}/v1", flush=True)
    # SIGTERM: no new requests, those under way are finished.
    wait = int(args.request_seconds) + 1
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=wait)
    for seat in (table.leader, *table.team):
        seat.batcher.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
