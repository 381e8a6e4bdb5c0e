"""The numbers of a report, from the rows of one run or several. No files are written and nothing is drawn here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from eval.reporting.stats import Paired, wilson
from openrlhf_mlpo.errors import UserError

SYSTEM = ["method", "leader", "agent", "budget"]  # what tells one system from another
COSTS = ("tokens", "completion_tokens", "generations", "steps", "serial_tokens", "seconds")


@dataclass
class Run:
    """One evaluation folder. `rows` has a row per question and system, and per round for those with rounds."""

    path: Path
    rows: pd.DataFrame
    manifest: dict
    compared: dict[str, Paired] = field(default_factory=dict)  # what was compared already, by name

    @property
    def label(self) -> str:
        return self.manifest.get("label") or self.path.name

    @property
    def seed(self) -> int:
        return int(self.manifest.get("seed", 0))

    @property
    def leaders(self) -> list[str]:
        return [leader["name"] for leader in self.manifest.get("leaders", [])]

    @property
    def team_size(self) -> int:
        return len(self.manifest.get("team", []))

    @cached_property
    def final(self) -> pd.DataFrame:
        """The rows that are a system's answers: of its last round."""
        return self.rows.drop_duplicates(["id", "system"], keep="last")

    @cached_property
    def table(self) -> pd.DataFrame:
        """Right (1.0) or wrong (0.0): a row per question, a column per system, in the order of the results file."""
        order = list(dict.fromkeys(self.rows["system"]))
        return self.final.pivot(index="id", columns="system", values="correct").astype(float)[order]

    @cached_property
    def agents_right(self) -> pd.Series:
        """How many of the team's first responses are right, by question."""
        return self.rows.drop_duplicates("id").set_index("id")["n_correct_agents"].reindex(self.table.index)

    def has(self, *systems: str) -> bool:
        return all(system in self.table.columns for system in systems)

    def by_round(self, system: str) -> pd.DataFrame:
        """Outcomes of a system with rounds: a row per question, a column per round."""
        rows = self.rows[self.rows["system"] == system]
        return rows.pivot(index="id", columns="round", values="correct").astype(float).reindex(self.table.index)


def system_name(method: str, leader: str = "", agent: str = "", budget: str = "") -> str:
    """`leader_team[mlpo]`, `agent[qwen]`, `majority_vote`, `majority_vote (equal tokens)`."""
    who = leader or (agent if method == "agent" else "")
    return method + (f"[{who}]" if who else "") + (f" (equal {budget})" if budget else "")


def load_run(path: str | Path) -> Run:
    """Read a folder that eval/evaluate.py wrote. Raises UserError when it is not one, or a line of it is broken."""
    path = Path(path)
    results = path / "results.jsonl"
    if not results.is_file():
        raise UserError(f"{path}: no results.jsonl in it; name a folder that eval/evaluate.py wrote")
    rows = []
    with results.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise UserError(
                    f"{results}: line {number} is not JSON; run the evaluation again to write it anew"
                ) from None
    if not rows:
        raise UserError(f"{results}: empty")
    frame = pd.DataFrame(rows)
    frame["system"] = [system_name(*key) for key in frame[SYSTEM].itertuples(index=False)]
    manifest_file = path / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.is_file() else {}
    return Run(path, frame, manifest)


def rate(outcomes: Sequence[float]) -> dict:
    """Accuracy with its Wilson interval."""
    right, n = int(np.sum(outcomes)), len(outcomes)
    return {"n": n, "accuracy": right / n if n else None, "ci95": list(wilson(right, n))}


def accuracies(run: Run) -> dict[str, dict]:
    """Per system: accuracy, interval, and mean cost per question."""
    costs = run.final.groupby("system")[list(COSTS)].mean()
    return {
        system: {**rate(run.table[system].dropna()), **{cost: float(costs.loc[system, cost]) for cost in COSTS}}
        for system in run.table.columns
    }


def by_round(run: Run) -> dict[str, list[dict]]:
    """Accuracy, cost, override and misled rates of each leader by round.

    Override: of the questions on which a majority of the team was wrong in that round, how many the leader got right.
    Misled: of those on which a majority was right, how many it got wrong. No majority: counted in neither.
    """
    found = {}
    for leader in run.leaders:
        rows = run.rows[run.rows["system"] == system_name("leader_team", leader)]
        found[leader] = []
        for t, of_round in rows.groupby("round"):
            right = of_round["correct"].astype(bool)
            majority = of_round["majority_now"]
            wrong_majority, right_majority = (majority == False), (majority == True)  # noqa: E712 None is neither
            found[leader].append(
                {
                    "round": int(t),
                    **rate(right),
                    "override": rate(right[wrong_majority]),
                    "misled": rate(~right[right_majority]),
                    "agents": float(of_round["n_correct_now"].mean() / run.team_size) if run.team_size else None,
                    **{cost: float(of_round[cost].mean()) for cost in COSTS},
                }
            )
    return {leader: rounds for leader, rounds in found.items() if rounds}


def by_group(run: Run, groups: pd.Series) -> dict[str, dict[str, dict]]:
    """`{system: {group: rate}}` for a grouping of the questions (Series by question id)."""
    groups = groups.reindex(run.table.index)
    return {
        system: {str(g): rate(run.table.loc[ids, system].dropna()) for g, ids in groups.groupby(groups).groups.items()}
        for system in run.table.columns
    }


def by_correct_agents(run: Run) -> dict[str, dict[str, dict]]:
    known = run.agents_right.dropna()
    return by_group(run, known.astype(int)) if len(known) else {}


def by_subject(run: Run) -> dict[str, dict[str, dict]]:
    """By task and subtask; empty when all questions are of one kind."""
    firsts = run.rows.drop_duplicates("id").set_index("id")
    names = firsts["task"].where(firsts["subtask"] == "", firsts["task"] + "/" + firsts["subtask"])
    return by_group(run, names) if names.nunique() > 1 else {}


def backtracking(run: Run) -> dict[str, list[dict]]:
    """By leader system and round: the share of outputs that revise an answer, and how often those and others are right.

    What revising is, eval/play/backtracking.py says. Empty for runs evaluated before it was recorded.
    """
    if "revised" not in run.rows:
        return {}
    found: dict[str, list[dict]] = {}
    rows = run.rows[run.rows["revised"].notna()]
    for (system, t), outputs in rows.groupby(["system", rows["round"].fillna(0).astype(int)], sort=False):
        revised, right = outputs["revised"].astype(bool), outputs["correct"]
        found.setdefault(system, []).append(
            {"round": int(t), "revised": rate(revised), "right": rate(right[revised]), "others": rate(right[~revised])}
        )
    return found
