"""Take the rows of the quickstart's three tasks from a file of real BBH rows.

    python3 recipes/quickstart/real_rows.py --rows bbh_sample.jsonl --out runs/quickstart/real.jsonl

Reads JSON Lines with `task`, `input` and `target`, as BBH has them, and writes the form of questions.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import questions as q

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.files import read_rows, write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL file with task, input and target")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    rows = (row for _, row in read_rows(args.rows) if row["task"] in q.MAKERS)
    write_jsonl(
        args.out,
        ({"task": "bbh", "subtask": r["task"], "question": r["input"], "answer": r["target"]} for r in rows),
    )


if __name__ == "__main__":
    run_cli(main)
