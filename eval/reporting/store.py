"""What is kept of runs for programs: report.json and report.csv (one long table)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pandas as pd

from eval.reporting import analysis
from eval.reporting.across import Group, teams
from eval.reporting.claims import claims
from eval.reporting.runs import IN_ROUNDS
from eval.reporting.stats import UNTESTED

COLUMNS = "runs seed metric system round against against_round agents_right claim value low high n p verdict".split()


def records(frame: pd.DataFrame) -> list[dict]:
    """Rows as JSON has them: names for systems and pairs, null for what is missing."""
    plain = frame.astype(object).where(frame.notna(), None)
    return json.loads(json.dumps(plain.to_dict("records"), default=str))


def as_json(groups: Sequence[Group]) -> dict:
    """report.json: verdicts and comparisons by group of seeds, the table across teams, and each run's numbers."""
    of_groups = [
        {"title": group.title, "runs": group.titles,
         "claims": {head: claims(tests) for head, tests in group.columns().items()},
         "tests": {head: records(tests.reset_index()) for head, tests in group.columns().items()}}
        for group in groups
    ]  # fmt: skip
    of_runs = [
        {"title": title, "label": run.label, "seed": run.seed, "n_questions": len(run.table),
         **{key: run.manifest.get(key) for key in ("team", "leaders", "best_agent", "command", "versions")},
         "systems": records(analysis.systems(run).reset_index()), "by_round": records(analysis.team_effects(run)),
         "by_correct_agents": records(analysis.by_correct_agents(run)), "by_kind": records(analysis.by_kind(run)),
         "backtracking": records(analysis.backtracking(run)), "followed": records(analysis.followed(run)),
         "router": records(analysis.router_agreement(run))}
        for group in groups for title, run in zip(group.titles, group.runs, strict=True)
    ]  # fmt: skip
    return {"groups": of_groups, "teams": records(teams(groups)), "runs": of_runs}


def long_table(groups: Sequence[Group]) -> pd.DataFrame:
    """report.csv: a row per number; `seed` is "together" for the runs of a group. A blank round is the last."""
    rows = [row for group in groups for row in group_rows(group)]
    whole = dict.fromkeys(("round", "against_round", "agents_right", "n"), "Int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(whole)


def group_rows(group: Group) -> Iterator[dict]:
    """Accuracies, comparisons, verdicts and shares of revising outputs, by seed and together."""
    members = [([run], run.seed) for run in group.runs] + [(group.runs, "together")]
    for tests, (runs, seed) in zip(group.columns().values(), members, strict=False):
        head = {"runs": group.title, "seed": seed}
        for system in (system for system in runs[0].table if all(run.has(system) for run in runs)):
            for number in runs[0].rounds(system) if system.method in IN_ROUNDS else [None]:
                level = analysis.accuracy(runs, system.at(number))
                at = {**head, "system": system, "round": number}
                yield {**at, "metric": "accuracy", "value": level["accuracy"], **level}
        for pair, test in tests[tests["verdict"] != UNTESTED].iterrows():
            at = {**head, "system": pair.a.at(None), "round": pair.a.round, "agents_right": pair.right}
            against = {"against": pair.b.at(None), "against_round": pair.b.round}
            yield {**at, **against, "metric": "difference", "value": test["diff"], **test}  # with its claim, if any
        for claim, word in claims(tests).items():
            yield {**head, "metric": "claim", "system": claim, "verdict": word}
        for row in analysis.backtracking(runs[0]).to_dict("records") if len(runs) == 1 else ():
            at = {**head, "system": row["system"], "round": row["round"]}
            yield {**at, "metric": "revises", "value": row["revises"], "n": row["n"]}
            yield {**at, "metric": "right, of revising outputs", "value": row["right"], "n": row["n_revises"]}
