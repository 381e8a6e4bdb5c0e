"""Several runs in one report: their names, which are seeds of one experiment, and the table across teams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.reporting.analysis import Run, system_name
from eval.reporting.claims import UNTRAINED, brief


def titles_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run: label and seed, and the folder where that does not tell two apart."""
    names = [f"{run.label}, seed {run.seed}" for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({run.path})" for name, run in zip(names, runs, strict=True)]


def groups_of(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Which runs are seeds of one experiment: same label, names of agents and leaders, and number of rounds.

    So a run with another team or team size is never pooled with them, even where nobody gave it a label.
    """
    grouped: dict[tuple, list[int]] = {}
    for index, run in enumerate(runs):
        agents = tuple(agent["name"] for agent in run.manifest.get("team", []))
        kind = (run.label, agents, tuple(run.leaders[:1]), run.manifest.get("rounds"))
        grouped.setdefault(kind, []).append(index)
    labels = [kind[0] for kind in grouped]
    named: dict[str, list[int]] = {}
    for (label, agents, _, rounds), members in grouped.items():
        title = label if labels.count(label) == 1 else f"{label} ({len(agents)} agents, rounds: {rounds})"
        while title in named:
            title += " *"
        named[title] = members
    return named


def team_rows(runs: Sequence[Run], titles: Sequence[str], analyses: Sequence[Mapping], pooled: Mapping) -> list[dict]:
    """The table across teams and team sizes: a row per run, then one per group of several runs.

    `shared`: how many agents were in the team of the first run given for the same leader. A leader is trained with one
    team, so list the run with that team first; 0 is then a team it never saw.
    """
    first: dict[str, set[str]] = {}
    rows = []

    def differences(found: Sequence[Mapping], name: str) -> dict:
        made = {test["name"]: test for test in found}
        others = {"majority_vote": "majority_vote", "best_agent": "best_agent"}
        others["untrained"] = system_name("leader_team", UNTRAINED)
        return {key: brief(made.get(f"{name} - {other}")) for key, other in others.items()}

    for run, title, found in zip(runs, titles, analyses, strict=True):
        if not run.leaders or not run.team_size:
            continue
        leader = run.leaders[0]
        models = [agent.get("model", agent["name"]) for agent in run.manifest["team"]]
        known = first.setdefault(run.manifest["leaders"][0].get("model", leader), set(models))
        systems = found["systems"]
        rows.append(
            {"run": title, "team_size": run.team_size, "shared": sum(model in known for model in models),
             "n": len(run.table), "rounds": [point["accuracy"] for point in found["by_round"].get(leader, [])],
             **{key: systems[key]["accuracy"] if key in systems else None
                for key in ("majority_vote", "best_agent", "oracle")},
             "untrained": systems.get(system_name("leader_team", UNTRAINED), {}).get("accuracy"),
             "differences": differences(found["tests"], system_name("leader_team", leader))}
        )  # fmt: skip
    by_title = {row["run"]: row for row in rows}
    for title, (members, tests_of_group) in pooled.items():
        of_group = [by_title[titles[index]] for index in members if titles[index] in by_title]
        if len(of_group) > 1:

            def mean(values: Sequence[float | None]) -> float | None:
                return None if None in values else sum(values) / len(values)

            leader = runs[members[0]].leaders[0]
            rows.append(
                {"run": f"{title}: {len(of_group)} runs together", "team_size": of_group[0]["team_size"],
                 "shared": max(row["shared"] for row in of_group), "n": sum(row["n"] for row in of_group),
                 "rounds": [mean(values) for values in zip(*(row["rounds"] for row in of_group), strict=True)],
                 **{key: mean([row[key] for row in of_group])
                    for key in ("majority_vote", "best_agent", "oracle", "untrained")},
                 "differences": differences(tests_of_group, system_name("leader_team", leader))}
            )  # fmt: skip
    return rows
