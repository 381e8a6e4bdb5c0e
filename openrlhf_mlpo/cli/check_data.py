"""Check a question file before training: rows without question or answer, equal questions, golds that can never pay.

    python3 -m openrlhf_mlpo.cli.check_data FILE --task math

Prints one line per problem, with the row's line number, and a summary; exits 1 when there is a problem, else 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tqdm import tqdm

from openrlhf_mlpo.cli.options import Parser, add_columns_flag, at_least
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.questions import TASKS
from openrlhf_mlpo.sources import check_rows, open_source, parse_columns


def main(argv: Sequence[str] | None = None) -> int:
    """Print the problems of one file; 0 when there are none."""
    args = parse_args(argv)
    rows, _ = open_source(args.file, args.task, args.split or None)
    total = bad = 0
    checked = check_rows(rows, args.task, parse_columns(args.columns))
    for place, question, problem in tqdm(checked, unit="row", leave=False, disable=not sys.stderr.isatty()):
        total += 1
        if isinstance(question, str) and question:
            problem = problem or f"the same question as {question}"
        if not problem:
            continue
        bad += 1
        if args.show == 0 or bad <= args.show:
            print(f"{place}: {problem}")
    if total == 0:
        raise UserError(f"{args.file}: no rows")
    if args.show and bad > args.show:
        print(f"… and {bad - args.show} more; --show 0 prints all")
    print(f"{args.file}: {total} rows, {bad} with problems, {total - bad} usable as task {args.task}")
    return 1 if bad else 0


def parse_args(argv: Sequence[str] | None):
    parser = Parser(prog="python3 -m openrlhf_mlpo.cli.check_data", description=__doc__)
    parser.add_argument(
        "file", help="questions: a .jsonl, .json or .parquet file, a folder, or a Hugging Face dataset (NAME:CONFIG)"
    )
    parser.add_argument("--task", required=True, choices=TASKS, help="how answers are verified; exact: your own")
    parser.add_argument("--split", default="", help="which of the source's splits (default: its only one)")
    add_columns_flag(parser.add_argument)
    parser.add_argument(
        "--show", type=int, default=50, help="problems printed at most; all are counted (default 50; 0 = all)"
    )
    args = parser.parse_args(argv)
    at_least(args, show=0)
    return args


if __name__ == "__main__":
    run_cli(main)
