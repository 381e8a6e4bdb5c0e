"""Let every agent of a team answer every question `--samples` times and store the verified responses as a pool.

A run that was stopped, however, is continued by the same command: nothing is sampled twice. With more questions, more
--samples or more agents in the team file, the same command adds what is missing to the pool, finished or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from openrlhf_mlpo.cli.options import Parser, add_question_flags, at_least
from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.pool.sample import conversation_of, manifest, sample_pool
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import TASKS
from openrlhf_mlpo.sources import load_questions, parse_columns
from openrlhf_mlpo.team import load_team


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    team = load_team(args.team)
    templates = {agent.name: load_template(agent.prompt or args.template) for agent in team}
    questions = load_questions(
        args.questions,
        args.task,
        split=args.split or None,
        columns=parse_columns(args.columns),
        test_fraction=args.test_fraction,
        skip_bad=args.skip_bad_rows,
        limit=args.limit,
    )
    seed = None if args.seed < 0 else args.seed
    about = manifest(args, team, templates, questions)
    sample_pool(args.out, questions, about, team, partial(conversation_of, templates), seed, args.flush_every)
    print(f"{args.out}: {len(questions)} questions x {len(team)} agents x {args.samples} samples")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python3 -m openrlhf_mlpo.cli.sample_team", description=__doc__, renamed={"--max_questions": "--limit"}
    )
    add = parser.add_argument
    add(
        "--questions",
        required=True,
        help="questions: a .jsonl, .json or .parquet file, a folder, or a Hugging Face dataset (NAME or NAME:CONFIG)",
    )
    add(
        "--task",
        required=True,
        choices=TASKS,
        help="how rows become questions and answers are verified; exact: your own data, exact match",
    )
    add_question_flags(add)
    add("--team", required=True, help="team file (YAML): the agents, their models, engines and sampling settings")
    add("--samples", type=int, default=4, help="responses per agent and question, M (default 4, the paper's)")
    add("--out", required=True, help="directory of the pool; an unfinished one is continued, a finished one extended")
    add("--template", default="chat", help="prompt template: chat, compact (tiny models) or a YAML file (default chat)")
    add("--seed", type=int, default=0, help="seed of every draw (default 0); -1: unseeded, not reproducible")
    add(
        "--flush_every",
        type=int,
        default=0,
        help="questions per batch on disk: what a kill can cost at most (default 0: 64, more for pools beyond 64,000)",
    )
    args = parser.parse_args(argv)
    at_least(args, samples=1, flush_every=0, limit=0, seed=-1)
    return args


if __name__ == "__main__":
    run_cli(main)
