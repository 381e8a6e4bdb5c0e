"""Collect runs of claims_cpu.sh, one a seed, into one report and one small file to keep.

    python3 recipes/claims/collect.py runs/claims0 runs/claims1 runs/claims2 --out runs/claims

Writes OUT/report, as eval/report.py does of the seeds together, and OUT/results.csv: its report.csv, with rows for the
conditions measured before MLPO and for the seconds of each stage. recipes/results.py prints it as tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval import report  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.files import write_whole  # noqa: E402
from recipes.stage import finished_stages  # noqa: E402

# In the order of the report; a run without --ablations has not the last one.
UNSEEN = [f"eval_unseen/k{k}" for k in (1, 3, 5, 8)]
EVALUATIONS = ["eval", "eval_sampled", *UNSEEN, "eval_ablations"]


def read_json(file: Path) -> Any:
    if not file.exists():
        raise UserError(f"{file} is missing; run recipes/claims_cpu.sh --dir {file.parent} to its end")
    return json.loads(file.read_text())


def about(run: Path) -> Iterator[dict]:
    """Rows of one run about its conditions and its stages."""
    seed = read_json(run / "eval" / "manifest.json")["seed"]
    for row in read_json(run / "conditions.json"):
        verdict = "holds" if row["holds"] else "fails"
        yield {"runs": "conditions", "seed": seed, "metric": "condition", "system": row["condition"],
               "against": row["bound"], "value": row["figure"], "verdict": verdict}  # fmt: skip
    for name, seconds in finished_stages(run):
        yield {"runs": "stages", "seed": seed, "metric": "seconds", "system": name, "value": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="folders of claims_cpu.sh, one a seed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and results.csv")
    args = parser.parse_args()
    rows = [row for run in args.runs for row in about(run)]
    folders = [run / name for name in EVALUATIONS for run in args.runs if (run / name).exists()]
    report.main([*map(str, folders), "--out", str(args.out / "report")])
    kept = pd.read_csv(args.out / "report" / "report.csv", dtype=str, keep_default_na=False)
    more = pd.DataFrame(rows, columns=kept.columns).astype(object).fillna("")
    table = pd.concat([kept, more])
    write_whole(args.out / "results.csv", [table.to_csv(index=False)])
    print(f"wrote {args.out / 'results.csv'}: {len(table)} figures of {len(args.runs)} runs")


if __name__ == "__main__":
    run_cli(main)
