"""Take the rows of the quickstart's three tasks from a file of real BBH rows.

    python3 recipes/quickstart/real_rows.py --rows bbh_sample.jsonl --out runs/quickstart/real.jsonl

Reads JSON Lines with `task`, `input` and `target`, as BBH has them, and writes the form of questions.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import questions as q


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL file with task, input and target")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    with args.out.open("w", encoding="utf-8") as file:
        for row in rows:
            if row["task"] in q.MAKERS:
                kept = {"task": "bbh", "subtask": row["task"], "question": row["input"], "answer": row["target"]}
                file.write(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
