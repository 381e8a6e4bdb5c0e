"""Systems, the keys of every table, and the folders that eval/evaluate.py wrote, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import read_rows

COSTS = ("tokens", "completion_tokens", "generations", "steps", "serial_tokens", "seconds")
REQUIRED = (*"id task subtask method leader agent round budget answer correct n_correct_agents".split(), *COSTS)
AGAIN = "run the same evaluation again; answers that it had are kept"


@dataclass(frozen=True)
class System:
    """One thing that was evaluated. `round`: None is its last one, or that it has none."""

    method: str
    leader: str = ""
    agent: str = ""
    budget: str = ""
    round: int | None = None

    def __str__(self) -> str:
        """The one place where display names are made: `leader_team[mlpo] first round`, `debate (equal tokens)`."""
        who, number = self.leader or self.agent, self.round
        at = "" if number is None else f" {round_name(number)}"
        return self.method + (f"[{who}]" if who else "") + (f" (equal {self.budget})" if self.budget else "") + at

    def at(self, number: int | None) -> System:
        return replace(self, round=number)


def round_name(number: int) -> str:
    """How readers count rounds: round 0 is the first."""
    return "first round" if number == 0 else f"round {number + 1}"


IN_ROUNDS = ("leader_team", "team_vote")  # methods of which every round is a result, not a means to the last
MAJORITY, BEST, ROUTER, ORACLE = map(System, ("majority_vote", "best_agent", "router", "oracle"))


@dataclass
class Run:
    """One evaluation folder. `rows` has a row per question and system, and per round for those with rounds."""

    path: Path
    rows: pd.DataFrame
    manifest: dict

    def __post_init__(self) -> None:
        self.label: str = self.manifest.get("label") or self.path.name
        self.seed = int(self.manifest.get("seed", 0))
        self.leaders: list[str] = [leader["name"] for leader in self.manifest.get("leaders", [])]
        self.agents: list[str] = [agent["name"] for agent in self.manifest.get("team", [])]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Right (1.0) or wrong (0.0) in the last round: a row per question, a column per system; leaders come first."""
        order = sorted(dict.fromkeys(self.rows["system"]), key=lambda s: (s.method == "agent", s.budget, not s.leader))
        return self.final.pivot(index="id", columns="system", values="correct").astype(float)[order]

    @cached_property
    def final(self) -> pd.DataFrame:
        """The rows that are a system's answers: of its last round."""
        return self.rows.drop_duplicates(["id", "system"], keep="last")

    @cached_property
    def questions(self) -> pd.DataFrame:
        """By question id: `kind` (task and subtask) and `n_correct_agents`, how many first responses are right."""
        first = self.rows.drop_duplicates("id").set_index("id")
        kind = first["task"].where(first["subtask"] == "", first["task"] + "/" + first["subtask"])
        return first.assign(kind=kind)[["kind", "n_correct_agents"]].loc[self.table.index]

    def has(self, system: System) -> bool:
        whole = system.at(None)
        return whole in self.table and (system.round is None or system.round in self.rounds(whole))

    @cached_property
    def by_round(self) -> dict[System, pd.DataFrame]:
        """Outcomes of systems with rounds: a row per question, a column per round."""
        rows = self.rows[self.rows["round"].notna()].astype({"round": int, "correct": float})
        return {
            system: group.pivot(index="id", columns="round", values="correct").reindex(self.table.index)
            for system, group in rows.groupby("system", sort=False)
        }

    def rounds(self, system: System) -> pd.DataFrame:
        """Outcomes of one system by round; no columns where it has none."""
        return self.by_round.get(system, self.table[[]])

    def outcomes(self, system: System) -> pd.Series:
        """Right or wrong by question, of one round where `system` names one."""
        return self.table[system] if system.round is None else self.rounds(system.at(None))[system.round]


def read_jsonl(file: Path) -> Iterator[dict]:
    """The objects of a JSONL file. Raises UserError, one line that names the line, where it is cut off or damaged."""
    try:
        for _, row in read_rows(file):
            yield row
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from None


def load_run(path: str | Path) -> Run:
    """Read a folder that eval/evaluate.py wrote. Raises UserError where it is none, half-written or damaged."""
    path = Path(path)
    results, manifest_file = path / "results.jsonl", path / "manifest.json"
    if not results.is_file():
        raise UserError(f"{path}: no results.jsonl in it; name a folder that eval/evaluate.py wrote")
    rows = list(read_jsonl(results))
    if not rows:
        raise UserError(f"{results}: empty; {AGAIN}")
    for number, row in enumerate(rows, 1):
        if missing := [key for key in REQUIRED if key not in row]:
            raise UserError(f"{results}: line {number} has no {missing[0]!r}; is it a file of eval/evaluate.py?")
        if not isinstance(row["correct"], bool):
            raise UserError(f"{results}: line {number}: 'correct' is {row['correct']!r}, not true or false")
    # The manifest is written last: without it the evaluation was stopped before its files were complete.
    if not manifest_file.is_file():
        raise UserError(f"{path}: no manifest.json, so the evaluation did not end; {AGAIN}")
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8-sig"))
        if not isinstance(manifest, dict):
            raise ValueError
    except ValueError:
        raise UserError(f"{manifest_file}: cut off or no JSON object; {AGAIN}") from None
    if missing := [key for key in ("team", "leaders") if not isinstance(manifest.get(key), list)]:
        raise UserError(f"{manifest_file}: has no list {missing[0]!r}; {AGAIN}")
    frame = pd.DataFrame(rows)
    frame["system"] = [
        # Which agent best_agent or router took is their finding, no part of what they are.
        System(row["method"], row["leader"], row["agent"] if row["method"] == "agent" else "", row["budget"])
        for row in rows
    ]
    check_questions(frame, manifest, results)
    return Run(path, frame, manifest)


def check_questions(rows: pd.DataFrame, manifest: dict, file: Path) -> None:
    """All systems must have answered the same questions, once. Raises UserError for the first that has not."""
    if (twice := rows.duplicated(["id", "system", "round"])).any():
        row = rows[twice].iloc[0]
        raise UserError(f"{file}: two rows of {row['system']} for question {row['id']}; {AGAIN}")
    every = dict.fromkeys(rows["id"])
    if (expected := manifest.get("n_questions", len(every))) != len(every):
        raise UserError(f"{file}: {len(every)} questions, but manifest.json says {expected}; {AGAIN}")
    # With a budget the round is as deep as the budget reaches, question by question.
    part = rows["round"].where(rows["budget"] == "", None).fillna(-1)
    for (system, number), ids in rows["id"].groupby([rows["system"].map(str), part], sort=False):
        if len(answered := set(ids)) < len(every):
            first = next(id_ for id_ in every if id_ not in answered)
            where = f" in round {number:.0f}" if number >= 0 else ""
            raise UserError(
                f"{file}: {system} has answers to {len(answered)} of {len(every)} questions{where} "
                f"(none to {first}), so methods cannot be compared; {AGAIN}"
            )
