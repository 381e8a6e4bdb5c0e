"""Several runs in one report: their names, which are seeds of one experiment, and the table across teams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from eval.reporting import claims
from eval.reporting.analysis import accuracy
from eval.reporting.runs import BEST, MAJORITY, ORACLE, Run, System


@dataclass
class Group:
    """Runs that are seeds of one experiment, and their tests: run by run, and together where they are several."""

    title: str
    runs: list[Run]
    titles: list[str]
    tests: list[pd.DataFrame]
    together: pd.DataFrame | None

    @property
    def verdicts(self) -> pd.DataFrame:
        return self.tests[0] if self.together is None else self.together

    def columns(self) -> dict[str, pd.DataFrame]:
        """The tests that stand side by side in a table, by heading."""
        together = {} if self.together is None else {"together": self.together}
        return {**dict(zip(self.titles, self.tests, strict=True)), **together}

    def test(self, a: System, b: System) -> dict | None:
        """What these runs say together about `a` against `b`; None where it was not evaluated."""
        tests, pair = self.verdicts, claims.Pair(a, b)
        if pair not in tests.index or tests.loc[pair, "verdict"] == claims.UNTESTED:
            return None
        return tests.loc[pair, ["diff", "low", "high", "p", "n", "verdict"]].to_dict()


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Runs of the same label, names of agents and leaders, and number of rounds are seeds of one experiment.

    So a run with another team or team size is never pooled with them, even where nobody gave it a label. A run is
    titled by label and seed, and by its folder where these do not tell two apart. A team that shares no model with that
    of the first run of the same leader is one that the leader never saw. p-values are adjusted over the claims of a
    group, those of the first group together with the claim on unseen teams: by seed, and over all seeds together.
    """
    names = [f"{run.label}, seed {run.seed}" for run in runs]
    kinds: dict[tuple, dict[str, Run]] = {}
    for run, name in zip(runs, names, strict=True):
        kind = (run.label, len(run.agents), run.manifest.get("rounds"), *run.agents, *run.leaders[:1])
        kinds.setdefault(kind, {})[name if names.count(name) == 1 else f"{name} ({run.path})"] = run
    labels = [label for label, *_ in kinds]
    groups: dict[str, Group] = {}
    families: list[list[Group]] = []
    for (label, size, rounds, *_), members in kinds.items():
        title = label if labels.count(label) == 1 else f"{label} ({size} agents, rounds: {rounds})"
        while title in groups:
            title += " *"
        chosen = list(members.values())
        new = bool(groups) and unseen(chosen[0], next(iter(groups.values())).runs)
        together = claims.compare(chosen, new) if len(chosen) > 1 else None
        tests = [claims.compare([run], new) for run in chosen]
        groups[title] = Group(title, chosen, list(members), tests, together)
        if new:
            families[0].append(groups[title])
        else:
            families.append([groups[title]])
    for family in families:
        tests = [(run.seed, table) for group in family for run, table in zip(group.runs, group.tests, strict=True)]
        for seed in dict.fromkeys(seed for seed, _ in tests):
            claims.adjust([table for of, table in tests if of == seed])
        claims.adjust([group.together for group in family if group.together is not None])
    return list(groups.values())


def unseen(run: Run, trained: Sequence[Run]) -> bool:
    """Whether this run's team has no agent of the team that the runs `trained` have for the same leader."""
    same = [other for other in trained if other.seed == run.seed and other.leaders[:1] == run.leaders[:1]]
    known = {model_of(agent) for other in same for agent in other.manifest["team"]}
    return bool(known) and not known & {model_of(agent) for agent in run.manifest["team"]}


def model_of(agent: Mapping) -> str:
    return agent.get("model", agent["name"])


def teams(groups: Sequence[Group]) -> pd.DataFrame:
    """A row per group: the leader's accuracy by round with its team, beside what the team reaches without it.

    `shared`: how many agents were in the team of the first run given for the same leader. A leader is trained with one
    team, so list the run with that team first; 0 is then a team it never saw.
    """
    first: dict[str, set[str]] = {}
    entries = []
    for group in groups:
        run = group.runs[0]
        team = System("leader_team", (run.leaders or [""])[0])
        if not all(run.has(team) for run in group.runs):
            continue
        models = [model_of(agent) for agent in run.manifest["team"]]
        known = first.setdefault(run.manifest["leaders"][0].get("model", team.leader), set(models))
        rounds = [accuracy(group.runs, team.at(number))["accuracy"] for number in run.rounds(team)]
        shared = sum(model in known for model in models)
        row = {"team": group.title, "seeds": len(group.runs), "K": len(models), "shared": shared, "n": len(run.table)}
        row["rounds"] = rounds
        others = {"untrained": System("leader_team", claims.UNTRAINED), "majority_vote": MAJORITY, "best_agent": BEST}
        for key, other in {**others, "oracle": ORACLE}.items():
            here = all(run.has(other) for run in group.runs)
            row[key] = accuracy(group.runs, other)["accuracy"] if here else None
        entries.append({**row, **{f"minus_{key}": group.test(team, other) for key, other in others.items()}})
    return pd.DataFrame(entries)
