"""Write a quickstart run's summary.json, and what it says in a few lines on screen.

    python3 recipes/quickstart/summary.py --dir runs/quickstart

Reads DIR/eval, the stages' times, and where they are there DIR/eval_real (real BBH rows) and DIR/eval_unseen/k1, k3, …
(a team that the leader never saw).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.reporting.claims import CLAIMS  # noqa: E402
from eval.reporting.store import summarise  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="the quickstart run's folder")
    folder = parser.parse_args().dir
    records = {file.stem: json.loads(file.read_text()) for file in (folder / "stages").glob("*.json")}
    stages = {name: r for name, r in sorted(records.items(), key=lambda item: item[1]["began"]) if r["finished"]}
    if not stages:
        raise UserError(f"{folder}: no quickstart run here (stages/ holds no finished stage)")
    seconds = {name: stage["seconds"] for name, stage in stages.items()}
    summary = summarise(folder / "eval", wall_seconds={**seconds, "total": round(sum(seconds.values()), 1)})
    summary["commands"] = {name: stage["command"] for name, stage in stages.items()}
    if (folder / "eval_real" / "results.jsonl").exists():
        real = summarise(folder / "eval_real")
        summary["real_bbh_rows"] = {key: real[key] for key in ("n_test", "accuracy")}
    unseen = sorted((folder / "eval_unseen").glob("k*/results.jsonl"), key=lambda file: int(file.parent.name[1:]))
    for file in unseen:
        unseen_team = summarise(file.parent)
        kept = {key: unseen_team[key] for key in ("n_test", "accuracy", "paired")}
        summary.setdefault("unseen_team", {})[file.parent.name] = kept
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print_summary(summary)


def print_summary(summary: dict) -> None:
    """Accuracies and comparisons as a table in plain text."""
    print(f"accuracy on {summary['n_test']} questions neither team nor leader has seen:")
    for name, value in summary["accuracy"].items():
        if isinstance(value, list):
            value = "  ".join(f"round {n}: {v:.3f}" for n, v in enumerate(value))
        elif isinstance(value, dict):
            value = "  ".join(f"{k}: {v:.3f}" for k, v in value.items())
        else:
            value = f"{value:.3f}"
        print(f"  {name:<24}{value}")
    print("paired differences, with 95 % intervals:")
    width = max(map(len, summary["paired"]), default=0)
    for name, test in summary["paired"].items():
        low, high = test["ci95"]
        print(f"  {name:<{width}}  {test['diff']:+.3f}  [{low:+.3f}, {high:+.3f}]  p = {test['p']:.2g}")
    print("claims:")
    for claim, word in summary["claims"].items():
        print(f"  ({claim}) {CLAIMS[claim]}: {word}")
    for row in summary["backtracking"]:
        ends = f", {row['right']:.3f} of these end right" if row["n_revises"] else ""
        print(f"  {row['system']}, round {row['round']}: {row['revises']:.3f} of outputs revise an answer{ends}")
    for k, unseen in summary.get("unseen_team", {}).items():
        accuracy = unseen["accuracy"]
        rounds = " -> ".join(f"{value:.3f}" for value in accuracy["leader_team"])
        print(f"unseen team, {k}: leader + team {rounds}; majority vote {accuracy['majority_vote']:.3f}")
    if real := summary.get("real_bbh_rows"):
        print(f"on {real['n_test']} real BBH rows of the same tasks: {json.dumps(real['accuracy'])}")
    print(f"total time of all stages: {summary['wall_seconds']['total'] / 60:.1f} minutes")


if __name__ == "__main__":
    run_cli(main)
