"""The numbers of a report, from the rows of one run or several. No files are written and nothing is drawn here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.stats import Paired, bootstrap_interval, holm, paired, wilson

SYSTEM = ["method", "leader", "agent", "budget"]  # what tells one system from another
COSTS = ("tokens", "completion_tokens", "generations", "steps", "serial_tokens", "seconds")


@dataclass
class Run:
    """One evaluation folder. `rows` has a row per question and system, and per round for those with rounds."""

    path: Path
    rows: pd.DataFrame
    manifest: dict

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


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`, outcomes by question, and which of the paper's claims (a) to (d) it bears on, if any."""

    name: str
    claim: str
    a: pd.Series
    b: pd.Series


def comparisons(run: Run, untrained: str = "untrained", grpo: str = "grpo") -> list[Comparison]:
    """What is tested: the first leader against all others, its rounds, it alone, and where few agents are right."""
    if not run.leaders:
        return []
    table, first = run.table, run.leaders[0]
    team, solo = system_name("leader_team", first), system_name("leader_solo", first)
    team_0, solo_0 = system_name("leader_team", untrained), system_name("leader_solo", untrained)
    found: list[Comparison] = []
    claim_a = ("best_agent", "majority_vote", team_0)
    if run.has(team):
        for other in table.columns:
            if other not in (team, "oracle"):
                claim = "a" if other in claim_a else ""
                found.append(Comparison(f"{team} - {other}", claim, table[team], table[other]))
        rounds = run.by_round(team)
        if rounds.shape[1] > 1:
            last, begin = rounds.columns[-1], rounds.columns[0]
            found.append(Comparison(f"{team} last round - first round", "b", rounds[last], rounds[begin]))
            # What training is for is one round: the later ones also ask of the agents that they can revise.
            for other in claim_a:
                if run.has(other):
                    suffix, values = (
                        (" first round", run.by_round(other)[begin]) if other == team_0 else ("", table[other])
                    )
                    name = f"{team} first round - {other}{suffix}"
                    found.append(Comparison(name, "a", rounds[begin], values))
    if run.has(solo):
        for other in (name for name in table.columns if name.startswith("leader_solo[") and name != solo):
            claim = "c" if other in (solo_0, system_name("leader_solo", grpo)) else ""
            found.append(Comparison(f"{solo} - {other}", claim, table[solo], table[other]))
    if run.has(team) and run.team_size:
        few = run.agents_right <= run.team_size / 3
        none = run.agents_right == 0
        for other in (name for name in (team_0, "majority_vote") if run.has(name)):
            for chosen, words in ((few, "at most a third of the agents right"), (none, "no agent right")):
                if chosen.any() and not (other == "majority_vote" and chosen is none):  # a vote of none is never right
                    name = f"{team} - {other}, {words}"
                    found.append(Comparison(name, "d", table.loc[chosen, team], table.loc[chosen, other]))
    return [drop_missing(c) for c in found]


def drop_missing(c: Comparison) -> Comparison:
    both = c.a.notna() & c.b.notna()
    return Comparison(c.name, c.claim, c.a[both], c.b[both])


def verdict(low: float, high: float) -> str:
    """In words, what a 95 % interval of a difference says."""
    return "holds" if low > 0 else "the contrary" if high < 0 else "open"


def tests(run: Run) -> list[dict]:
    """Every comparison of a run: difference, paired bootstrap interval, McNemar's p, and that adjusted by Holm."""
    made = comparisons(run)
    results: list[Paired] = [paired(c.a.to_numpy(), c.b.to_numpy(), seed=run.seed) for c in made]
    adjusted = holm([result.p for result in results])
    return [
        {"name": c.name, "claim": c.claim, **r.as_dict(), "p_holm": p, "verdict": verdict(*r.ci95)}
        for c, r, p in zip(made, results, adjusted, strict=True)
    ]


def over_runs(runs: Sequence[Run]) -> list[dict]:
    """Each comparison over runs of one label (seeds): every run's difference, and an interval of their mean.

    Questions are resampled; a question that several runs share enters once, with its mean difference, so that its
    repeats are not taken for independent evidence.
    """
    made: dict[str, list[Comparison]] = {}
    for run in runs:
        for c in comparisons(run):
            made.setdefault(c.name, []).append(c)
    pooled = []
    for name, group in made.items():
        differences = pd.concat([c.a - c.b for c in group])
        mean = differences.groupby(level=0).mean()
        interval = bootstrap_interval(mean.to_numpy(), seed=runs[0].seed)
        pooled.append(
            {
                "name": name,
                "claim": group[0].claim,
                "runs": len(group),
                "diffs": [float((c.a - c.b).mean()) if len(c.a) else 0.0 for c in group],
                "diff": float(mean.mean()),
                "ci95": list(interval),
                "n": len(mean),
                "verdict": verdict(*interval),
            }
        )
    return pooled


def analyse(run: Run) -> dict:
    """Everything about one run, as it goes into report.json."""
    return {
        "label": run.label,
        "seed": run.seed,
        "n_questions": len(run.table),
        "team": run.manifest.get("team", []),
        "leaders": run.manifest.get("leaders", []),
        "best_agent": run.manifest.get("best_agent"),
        "command": run.manifest.get("command", ""),
        "versions": run.manifest.get("versions", {}),
        "systems": accuracies(run),
        "by_round": by_round(run),
        "by_correct_agents": by_correct_agents(run),
        "by_subject": by_subject(run),
        "tests": tests(run),
    }
