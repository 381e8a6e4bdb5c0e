"""Check that a warm-started leader and its team leave something to show, before MLPO starts.

    python3 recipes/claims/conditions.py --greedy runs/dev_greedy --sampled runs/dev_sampled --out conditions.json

Reads two evaluations of the same questions with two rounds: the leader greedy, with the router, and sampled as in
training, with the votes of eight outputs alone. Writes every figure with its bound, and ends with an error that names
those that fail. Otherwise a gain could be sharpened noise, a team that does not listen, or a table of whom to follow.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.files import read_rows, write_whole


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


class Evaluation:
    """Rows and transcripts of one evaluation with one leader."""

    def __init__(self, folder: Path):
        if not (folder / "manifest.json").exists():
            raise UserError(f"{folder}: no finished evaluation here; run eval/evaluate.py --out {folder}")
        self.rows = [row for _, row in read_rows(folder / "results.jsonl")]
        self.transcripts = [row for _, row in read_rows(folder / "transcripts.jsonl")]

    def of(self, method: str, round: int | None = None) -> list[dict]:
        rows = [row for row in self.rows if row["method"] == method and row["round"] == round and not row["budget"]]
        if not rows:
            raise UserError(f"the evaluation has no rows of {method}, round {round}")
        return rows

    def accuracy(self, method: str, round: int | None = None) -> float:
        return mean(row["correct"] for row in self.of(method, round))

    def samples(self, method: str) -> list[list[bool]]:
        """`[question][sample]`: which outputs of a leader alone are right."""
        return [[turn["correct"] for turn in t["turns"]] for t in self.transcripts if t["method"] == method]

    def revisions(self) -> list[tuple[bool, bool, bool, str]]:
        """By question and agent: its first response is right, the leader's first output, its second response; name."""
        out = []
        for transcript in (t for t in self.transcripts if t["method"] == "leader_team"):
            turns = {(turn["round"], turn["player"]): turn["correct"] for turn in transcript["turns"]}
            leader = transcript["leader"]
            for (number, player), right in turns.items():
                if number == 0 and player != leader:
                    out.append((right, turns[0, leader], turns[1, player], player))
        return out


def figures(greedy: Evaluation, sampled: Evaluation) -> list[tuple[str, float, str, float]]:
    """(what, figure, ">=" or "<=", bound) of every condition."""
    leader = greedy.accuracy("leader_team", 0)
    oracle = greedy.accuracy("oracle")
    revisions = greedy.revisions()
    by_agent = defaultdict(list)
    for before, _, _, name in revisions:
        by_agent[name].append(before)
    strongest = max(by_agent, key=lambda name: mean(by_agent[name]))
    followed: dict[str, Counter] = defaultdict(Counter)
    for row in greedy.of("leader_team", 0):
        followed[row["subtask"]].update(row["follows"] or ["nobody"])
        followed[row["subtask"]]["all"] += 1
    most = max(max(n for who, n in counts.items() if who != "all") / counts["all"] for counts in followed.values())
    return [
        ("greedy less sampled accuracy, with the team", abs(leader - sampled.accuracy("leader_team", 0)), "<=", 0.03),
        ("greedy less sampled accuracy, alone",
         abs(greedy.accuracy("leader_solo") - sampled.accuracy("leader_solo")), "<=", 0.03),
        ("an agent keeps a right answer, leader right",
         mean(now for b, led, now, _ in revisions if b and led), ">=", 0.95),
        ("an agent takes a right answer from the leader",
         mean(now for b, led, now, _ in revisions if not b and led), ">=", 0.7),
        ("the strongest agent keeps a right answer, leader wrong",
         mean(now for b, led, now, name in revisions if b and not led and name == strongest), ">=", 0.6),
        ("any agent right, less the leader", oracle - leader, ">=", 0.1),
        ("any agent right, less the best agent", oracle - greedy.accuracy("best_agent"), ">=", 0.1),
        ("any agent right, less the router", oracle - greedy.accuracy("router"), ">=", 0.1),
        ("groups of eight outputs alone that are all wrong",
         mean(not any(samples) for samples in sampled.samples("leader_vote")), ">=", 0.2),
        ("outputs of one kind that follow the same agent", most, "<=", 0.9),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--greedy", type=Path, required=True, help="evaluation of the leader, greedy, with the router")
    parser.add_argument("--sampled", type=Path, required=True, help="the same at temperature 1, with leader_vote")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--warn", action="store_true", help="go on when a condition fails")
    args = parser.parse_args()
    rows = [
        {"condition": what, "figure": round(figure, 4), "bound": f"{sign} {bound}",
         "holds": figure >= bound if sign == ">=" else figure <= bound}
        for what, figure, sign, bound in figures(Evaluation(args.greedy), Evaluation(args.sampled))
    ]  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, [json.dumps(rows, indent=1), "\n"])
    for row in rows:
        print(f"  {row['condition']:<58} {row['figure']:.3f}  {row['bound']:<8} {'' if row['holds'] else 'FAILS'}")
    if failed := [f"{r['condition']} is {r['figure']:.3f}, not {r['bound']}" for r in rows if not r["holds"]]:
        if not args.warn:
            raise UserError(f"{args.out}: {len(failed)} of {len(rows)} conditions fail: {'; '.join(failed)}")
        print(f"warning: {len(failed)} of {len(rows)} conditions fail")


if __name__ == "__main__":
    run_cli(main)
