"""Keep what runs of claims_cpu.sh came to, one a seed, and make the tables and the picture of all that are kept.

    python3 recipes/claims/collect.py runs/claims0 runs/claims1
    python3 recipes/claims/collect.py               # again from what is kept

Keeps of each run, in --out: seedN.csv.gz, who was right on which question (outcomes.py), and seedN.csv, the conditions
measured before MLPO and the seconds of each stage. Writes results.csv of all seeds there, in the form of
eval/report.py's report.csv, which recipes/results.py prints as tables, and rounds.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import outcomes  # noqa: E402

from eval.report import draw_rounds  # noqa: E402
from eval.reporting.across import groups_of  # noqa: E402
from eval.reporting.runs import load_run  # noqa: E402
from eval.reporting.store import COLUMNS, long_table  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.files import write_whole  # noqa: E402
from recipes.stage import finished_stages  # noqa: E402

OUT = Path(__file__).resolve().parent / "results"
# In the order of the tables; a run without --ablations has not the last one.
UNSEEN = [f"eval_unseen/k{k}" for k in (1, 3, 5, 8)]
EVALUATIONS = ["eval", "eval_sampled", *UNSEEN, "eval_ablations"]


def read_json(file: Path) -> Any:
    if not file.exists():
        raise UserError(f"{file} is missing; run recipes/claims_cpu.sh --dir {file.parent} to its end")
    return json.loads(file.read_text())


def about(run: Path, seed: int) -> Iterator[dict]:
    """Rows of one run about its conditions and its stages."""
    for row in read_json(run / "conditions.json"):
        verdict = "holds" if row["holds"] else "fails"
        yield {"runs": "conditions", "seed": seed, "metric": "condition", "system": row["condition"],
               "against": row["bound"], "value": row["figure"], "verdict": verdict}  # fmt: skip
    for name, seconds in finished_stages(run):
        yield {"runs": "stages", "seed": seed, "metric": "seconds", "system": name, "value": seconds}


def keep(run: Path, out: Path) -> None:
    """Write the two files of one run."""
    seed = read_json(run / "eval" / "manifest.json")["seed"]
    rows = pd.DataFrame(about(run, seed), columns=COLUMNS).dropna(axis=1, how="all")
    outcomes.keep([load_run(run / name) for name in EVALUATIONS if (run / name).exists()], out / f"seed{seed}.csv.gz")
    write_whole(out / f"seed{seed}.csv", [rows.to_csv(index=False)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="DIR", help="folders of claims_cpu.sh, one a seed")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of what is kept (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for run in args.runs:
        keep(run, args.out)
    files = sorted(args.out.glob("seed*.csv.gz"))
    if not files:
        raise UserError(f"{args.out}: no seed is kept there; name folders of recipes/claims_cpu.sh")
    by_seed = [outcomes.read(file) for file in files]
    names = dict.fromkeys(run.path.name for runs in by_seed for run in runs)
    groups = groups_of([run for name in names for runs in by_seed for run in runs if run.path.name == name])
    more = [pd.read_csv(file.with_suffix("")) for file in files]
    table = pd.concat([long_table(groups), *more])[COLUMNS]
    write_whole(args.out / "results.csv", [table.to_csv(index=False, float_format="%.6g")])
    draw_rounds(groups[0].runs, args.out / "rounds.png")
    print(f"wrote {args.out / 'results.csv'}: {len(table)} figures of {len(files)} seeds, and rounds.png")


if __name__ == "__main__":
    run_cli(main)
