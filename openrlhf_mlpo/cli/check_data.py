"""Check a question file before training: rows without question or answer, equal questions, golds that can never pay.

    python3 -m openrlhf_mlpo.cli.check_data FILE --task math

Prints one line per problem, with the row's line number, and a summary; exits 1 when there is a problem, else 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from openrlhf_mlpo import sources
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.questions import TASKS

_CHUNK = 512


def problems(source: str, task: str, columns: dict[str, str] | None = None, split: str | None = None) -> Iterator[Any]:
    """Yield None for each good row and "FILE, line N: what is wrong" for each bad one, in the order of the source."""
    rows, _ = sources.open_source(source, task, split)
    seen: dict[str, str] = {}

    def check(place_and_row: tuple[str, dict]) -> tuple[str, str | None, str | None]:
        place, row = place_and_row
        try:
            question = sources.to_question(row, task, columns)
        except ValueError as error:
            return place, None, str(error)
        return place, question.id, question.gold_problem()

    with ThreadPoolExecutor(8) as threads:  # the checks wait for worker processes
        for chunk in _chunks(rows):
            for place, identity, problem in threads.map(check, chunk):
                if problem is None and identity in seen:
                    problem = f"the same question as {seen[identity]}"
                elif identity is not None:
                    seen.setdefault(identity, place)
                yield f"{place}: {problem}" if problem else None


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    yield chunk


def main(argv: list[str] | None = None) -> int:
    """Print the problems of one file; 0 when there are none."""
    parser = argparse.ArgumentParser(
        prog="python3 -m openrlhf_mlpo.cli.check_data",
        description="Check questions before training: which rows are broken, which gold answers could never pay.",
    )
    parser.add_argument("file", help="questions: a .jsonl or .parquet file, a directory, or a Hugging Face dataset")
    parser.add_argument("--task", required=True, choices=TASKS, help="how answers are verified; exact: your own")
    parser.add_argument("--split", default=None, help="split of a Hugging Face dataset (default: its only one)")
    parser.add_argument(
        "--columns", default="", help="names of your columns, as question=prompt,answer=gold (default: the usual names)"
    )
    parser.add_argument(
        "--show", type=int, default=50, help="problems printed at most; all are counted (default 50; 0 = all)"
    )
    args = parser.parse_args(argv)
    if args.show < 0:
        raise UserError(f"--show must be 0 (all) or more, not {args.show}")
    total = bad = 0
    found = problems(args.file, args.task, sources.parse_columns(args.columns), args.split)
    for problem in tqdm(found, unit="row", leave=False, disable=not sys.stderr.isatty()):
        total += 1
        if problem is None:
            continue
        bad += 1
        if args.show == 0 or bad <= args.show:
            print(problem)
    if total == 0:
        raise UserError(f"{args.file}: no rows")
    if args.show and bad > args.show:
        print(f"… and {bad - args.show} more; --show 0 prints all")
    print(f"{args.file}: {total} rows, {bad} with problems, {total - bad} usable as task {args.task}")
    return 1 if bad else 0


if __name__ == "__main__":
    run_cli(main)
