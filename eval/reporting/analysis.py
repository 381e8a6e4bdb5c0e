"""The numbers of one run, or of several together, as tables (pandas)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from eval.reporting.runs import COSTS, ROUTER, Run, System
from eval.reporting.stats import shares, stratified_interval, wilson


def rate(outcomes: pd.Series) -> dict:
    """How many (`n`), what share of them is right (`accuracy`), and the ends of its Wilson interval."""
    n, right = len(outcomes), int(outcomes.sum())
    low, high = wilson(right, n)
    return {"n": n, "accuracy": right / n, "low": low, "high": high}


def accuracy(runs: Sequence[Run], system: System) -> dict:
    """n, accuracy, low, high: of one run with its Wilson interval, or the mean over runs with a bootstrapped one."""
    outcomes = [run.outcomes(system) for run in runs]
    if len(runs) == 1:
        return rate(outcomes[0])
    sums, strata = shares(outcomes)
    low, high = stratified_interval(strata, seed=runs[0].seed)
    return {"n": len(sums), "accuracy": float(sums.sum()), "low": low, "high": high}


def systems(run: Run) -> pd.DataFrame:
    """By system: accuracy in the last round, interval, mean cost per question."""
    costs = run.final.groupby(run.final["system"].map(str))[list(COSTS)].mean()
    entries = [{"system": s, **rate(run.table[s]), **costs.loc[str(s)]} for s in run.table]
    return pd.DataFrame(entries).set_index("system")


def by_round(runs: Sequence[Run]) -> pd.DataFrame:
    """Accuracy of leader + team by leader and round, over runs of the same leaders."""
    entries = []
    for system in (System("leader_team", name) for name in runs[0].leaders):
        if all(run.has(system) for run in runs):
            for number in runs[0].rounds(system):
                entries.append({"series": system, "round": number, **accuracy(runs, system.at(number))})
    return pd.DataFrame(entries)


def team_effects(run: Run) -> pd.DataFrame:
    """What the team has to do with the leader's answer, by leader and round.

    `override`: of the questions on which a majority of the team was wrong in that round, how many the leader got right;
    `misled`: of those on which a majority was right, how many it got wrong. No majority: counted in neither.
    """
    entries = []
    of_team = run.rows[run.rows["method"] == "leader_team"]
    for (leader, number), rows in of_team.groupby(["leader", "round"], sort=False):
        right, majority = rows["correct"].astype(bool), rows["majority_now"]
        override, misled = right[majority.eq(False)], ~right[majority.eq(True)]
        entries.append(
            {"leader": leader, "round": int(number), **rate(right), "tokens": rows["tokens"].mean(),
             "agents": rows["n_correct_now"].mean() / len(run.agents), "override": override.mean(),
             "override_n": len(override), "misled": misled.mean(), "misled_n": len(misled)}
        )  # fmt: skip
    return pd.DataFrame(entries)


def strata(run: Run, groups: pd.Series) -> pd.DataFrame:
    """Accuracy by system and group of questions (a Series by question id); empty where there is one group only."""
    if groups.nunique() < 2:
        return pd.DataFrame()
    entries = [
        {"system": system, "group": group, **rate(run.table.loc[ids, system])}
        for system in run.table
        for group, ids in groups.groupby(groups).groups.items()
    ]
    return pd.DataFrame(entries)


def by_correct_agents(run: Run) -> pd.DataFrame:
    return strata(run, run.questions["n_correct_agents"].dropna().astype(int))


def by_kind(run: Run) -> pd.DataFrame:
    return strata(run, run.questions["kind"])


def backtracking(run: Run) -> pd.DataFrame:
    """By leader system and round: the share of outputs that revise an answer, how often those and the others are right.

    What revising is, eval/play/backtracking.py says. Empty for runs evaluated before it was recorded.
    """
    if "revised" not in run.rows:
        return pd.DataFrame()
    rows, entries = run.rows[run.rows["revised"].notna()], []
    for (_, number), group in rows.groupby([rows["system"].map(str), rows["round"].fillna(0).astype(int)], sort=False):
        revised, right = group["revised"].astype(bool), group["correct"]
        entries.append(
            {"system": group["system"].iloc[0], "round": int(number), "n": len(group), "revises": revised.mean(),
             "n_revises": int(revised.sum()), "right": right[revised].mean(), "others_right": right[~revised].mean()}
        )  # fmt: skip
    return pd.DataFrame(entries)


def followed(run: Run) -> pd.DataFrame:
    """Whom leaders follow, by leader and round, in the last one by kind of question too: shares of outputs with the
    answer of one agent, of several, or of none of them. Empty where `follows` was not recorded.
    """
    if "follows" not in run.rows:
        return pd.DataFrame()
    rows = run.rows[run.rows["method"] == "leader_team"].astype({"round": int})
    kinds = [run.questions["kind"].reindex(rows["id"]).to_numpy(), ["all"] * len(rows)]
    rows = pd.concat([rows.assign(kind=kind, whom=rows["follows"].map(whom)) for kind in kinds])
    table = pd.crosstab([rows["leader"], rows["kind"], rows["round"]], rows["whom"], normalize="index")
    rows = table.loc[[leader for leader in run.leaders if leader in table.index]].reset_index()
    return rows[rows["kind"].eq("all") | rows["round"].eq(rows["round"].max())]


def whom(follows: object) -> str:
    """The agent's name in a `follows` field (a name, a list of names, or nothing)."""
    names = [follows] if isinstance(follows, str) and follows else list(follows) if isinstance(follows, list) else []
    return names[0] if len(names) == 1 else "several" if names else "nobody"


def router_agreement(run: Run) -> pd.DataFrame:
    """How often each leader + team and the router give the same answer: both right, or the same words."""
    if not run.has(ROUTER):
        return pd.DataFrame()
    router = run.final[run.final["system"] == ROUTER].set_index("id")
    entries = []
    for system in (s for s in run.table if s.method == "leader_team"):
        rows = run.final[run.final["system"] == system].set_index("id").loc[router.index]
        same = (rows["correct"] & router["correct"]) | (rows["answer"].eq(router["answer"]))
        entries.append({"leader": system.leader, **rate(same)})
    return pd.DataFrame(entries)
