"""What is compared with what, which of the paper's claims (a) to (d) that bears on, and what runs say together.

A verdict follows from the 95 % interval of a paired difference alone: above 0 it holds, below 0 it does not, else it is
not shown. A claim with several parts holds where each part does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from eval.reporting.analysis import Run, system_name
from eval.reporting.stats import holm, paired, sign_flip, stratified_interval

UNTRAINED, GRPO, BASE, NO_SFT = "untrained", "grpo", "base", "mlpo_no_sft"  # names of leaders with a meaning
CLAIMS = {
    "a": "leader + team beats the best agent, majority vote and the untrained leader with the same team",
    "a, one round": "the same after the first round, without the agents' revisions",
    "b": "accuracy rises with rounds (last - first)",
    "c": "the trained leader is better alone, than before and than after plain GRPO on the same budget",
    "d": "it holds up when one agent is right, or none (a vote is then never right)",
}
PARTS = {"a": 3, "a, one round": 3, "b": 1, "c": 2}  # comparisons of a claim that is tested in full
HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "not shown", "not tested"


@dataclass(frozen=True)
class Comparison:
    """`a` against `b`, outcomes by question, and the claim it bears on, if any."""

    name: str
    claim: str
    a: pd.Series
    b: pd.Series

    @property
    def differences(self) -> pd.Series:
        return self.a - self.b


def comparisons(run: Run) -> list[Comparison]:
    """What is tested: the first leader against all others, its rounds, it alone, and where few agents are right."""
    if not run.leaders:
        return []
    table, first = run.table, run.leaders[0]
    team, solo = system_name("leader_team", first), system_name("leader_solo", first)
    team_0, solo_0 = system_name("leader_team", UNTRAINED), system_name("leader_solo", UNTRAINED)
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
                    found.append(Comparison(name, "a, one round", rounds[begin], values))
    if run.has(solo):
        for other in (name for name in table.columns if name.startswith("leader_solo[") and name != solo):
            claim = "c" if other in (solo_0, system_name("leader_solo", GRPO)) else ""
            found.append(Comparison(f"{solo} - {other}", claim, table[solo], table[other]))
    if run.has(team):
        for right, words in ((0, "no agent right"), (1, "one agent right")):
            chosen = run.agents_right == right
            if chosen.any() and run.team_size > 2 * right:  # one of two is not few
                for other in (name for name in (team_0, "majority_vote") if run.has(name)):
                    name = f"{team} - {other}, {words}"
                    found.append(Comparison(name, "d", table.loc[chosen, team], table.loc[chosen, other]))
    return [drop_missing(c) for c in found]


def drop_missing(c: Comparison) -> Comparison:
    both = c.a.notna() & c.b.notna()
    return Comparison(c.name, c.claim, c.a[both], c.b[both])


def verdict(low: float, high: float) -> str:
    """In words, what a 95 % interval of a difference says."""
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def tested(run: Run, made: Sequence[Comparison]) -> list[dict]:
    """Each comparison's difference, paired bootstrap interval, McNemar's p, and that adjusted by Holm."""
    for c in made:
        if c.name not in run.compared:  # bootstraps take most of a report's time, and sections share comparisons
            run.compared[c.name] = paired(c.a.to_numpy(), c.b.to_numpy(), seed=run.seed)
    results = [run.compared[c.name] for c in made]
    adjusted = holm([result.p for result in results])
    return [
        {"name": c.name, "claim": c.claim, **r.as_dict(), "p_holm": p, "verdict": verdict(*r.ci95)}
        for c, r, p in zip(made, results, adjusted, strict=True)
    ]


def tests(run: Run) -> list[dict]:
    """Every comparison of a run."""
    return tested(run, comparisons(run))


def over_runs(runs: Sequence[Run], make: Callable[[Run], list[Comparison]] = comparisons) -> list[dict]:
    """Each comparison over the runs of one group (seeds): every run's difference, their mean, its interval and p.

    Runs weigh the same and questions are resampled within each run (a stratified bootstrap), as runs are trainings of
    their own on questions of their own. A question that several runs share moves all of them at once, so that its
    repeats are not taken for independent evidence. The interval is about these trainings and more questions; how far
    trainings differ is seen in `diffs`.
    """
    made: dict[str, list[Comparison]] = {}
    for run in runs:
        for c in make(run):
            made.setdefault(c.name, []).append(c)
    pooled = []
    for name, group in made.items():
        group = [c for c in group if len(c.a)] or group[:1]
        shares = pd.concat(
            [c.differences / (len(c.a) * len(group)) for c in group], axis=1, keys=range(len(group))
        ).sort_index()
        of_runs = shares.notna().apply(tuple, axis=1)  # the runs that a question is in: its stratum
        sums = shares.sum(axis=1)
        strata = [part.to_numpy() for _, part in sums.groupby(of_runs)] if len(sums) else []
        interval = stratified_interval(strata, seed=runs[0].seed)
        pooled.append(
            {
                "name": name,
                "claim": group[0].claim,
                "runs": len(group),
                "diffs": [float(c.differences.mean()) if len(c.a) else 0.0 for c in group],
                "diff": float(sums.sum()),
                "ci95": list(interval),
                "p": sign_flip(sums.to_numpy(), seed=runs[0].seed),
                "n": len(sums),
                "verdict": verdict(*interval),
            }
        )
    return pooled


def combined(claim: str, found: Sequence[dict]) -> str:
    """The verdict on a claim from those on its parts; says so when a part was not evaluated."""
    if not found:
        return UNTESTED
    verdicts = {part["verdict"] for part in found}
    word = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else OPEN
    missing = PARTS.get(claim, 0) > len(found)
    return f"{word} ({len(found)} of {PARTS[claim]} parts tested)" if missing else word


def claims(per_run: Sequence[Sequence[dict]], pooled: Sequence[dict]) -> dict[str, dict]:
    """`{claim: {text, verdicts of the runs, verdict together, comparisons}}` from `tests` and `over_runs`."""
    found = {}
    for claim, text in CLAIMS.items():
        of_runs = [{test["name"]: test for test in tests if test["claim"] == claim} for tests in per_run]
        together = {test["name"]: test for test in pooled if test["claim"] == claim}
        names = list(dict.fromkeys(name for tests in of_runs for name in tests))
        found[claim] = {
            "text": text,
            "runs": [combined(claim, list(tests.values())) for tests in of_runs],
            "together": combined(claim, list(together.values())) if pooled else None,
            "comparisons": [
                {
                    "name": name,
                    "runs": [brief(tests.get(name)) for tests in of_runs],
                    "together": brief(together.get(name)),
                }
                for name in names
            ],
        }
    return found


def brief(test: dict | None) -> dict | None:
    return test and {key: test[key] for key in ("diff", "ci95", "p", "n", "verdict")}


def training_steps(leaders: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """`{leader: (what it is, leaders it is compared with)}`, in the order of training; unknown names have no step."""
    first = leaders[0]
    sft = BASE in leaders
    known = {
        BASE: ("before SFT", ()),
        UNTRAINED: ("after SFT" if sft else "before MLPO", (BASE,)),
        GRPO: ("SFT + GRPO" if sft else "GRPO", (UNTRAINED,)),
        NO_SFT: ("MLPO without SFT", (BASE,)),
    }
    steps = {name: step for name, step in known.items() if name in leaders and name != first}
    steps[first] = ("SFT + MLPO" if sft else "MLPO", tuple(n for n in (UNTRAINED, GRPO, NO_SFT, BASE) if n != first))
    return {**steps, **{name: ("", ()) for name in leaders if name not in steps}}


# What a leader plays in the table of training steps: method, and what is added to the system's name.
PLAYED = (("leader_team", " first round"), ("leader_team", ""), ("leader_solo", ""))


def step_outcomes(run: Run) -> dict[str, pd.Series]:
    """Outcomes by question of all leaders in all of `PLAYED`, by name; a first round only where there are more."""
    found = {}
    for leader in run.leaders:
        for method, suffix in PLAYED:
            system = system_name(method, leader)
            if not run.has(system):
                continue
            if not suffix:
                found[system] = run.table[system]
            elif (rounds := run.by_round(system)).shape[1] > 1:
                found[system + suffix] = rounds[rounds.columns[0]]
    return found


def step_comparisons(run: Run) -> list[Comparison]:
    """What each step of training brought, with the team and alone."""
    steps = training_steps(run.leaders) if run.leaders else {}
    outcomes = step_outcomes(run)
    found = []
    for method, suffix in PLAYED:
        for leader, (_, before) in steps.items():
            a = system_name(method, leader) + suffix
            for b in (system_name(method, other) + suffix for other in before):
                if a in outcomes and b in outcomes:
                    found.append(drop_missing(Comparison(f"{a} - {b}", "", outcomes[a], outcomes[b])))
    return found


def steps(runs: Sequence[Run]) -> list[dict]:
    """A row per leader, what it played and earlier leader: accuracies by run, paired difference by run and together."""
    leaders = list(dict.fromkeys(name for run in runs for name in run.leaders))
    if len(leaders) < 2:
        return []
    per_run = [{t["name"]: t for t in tested(run, step_comparisons(run))} for run in runs]
    pooled = over_runs(runs, step_comparisons) if len(runs) > 1 else []
    together = {t["name"]: t for t in pooled}
    outcomes = [step_outcomes(run) for run in runs]
    rows = []
    for method, suffix in PLAYED:
        for leader, (what, before) in training_steps(leaders).items():
            a = system_name(method, leader) + suffix
            if not any(a in found for found in outcomes):
                continue
            accuracy = [float(found[a].mean()) if a in found else None for found in outcomes]
            names = {other: f"{a} - {system_name(method, other)}{suffix}" for other in before}
            made = {other: name for other, name in names.items() if any(name in found for found in per_run)}
            for other, name in made.items() or [("", "")]:
                differences = [brief(found.get(name)) for found in per_run]
                rows.append(
                    {"system": a, "leader": leader, "what": what, "accuracy": accuracy, "against": other,
                     "runs": differences, "together": brief(together.get(name))}
                )  # fmt: skip
    return rows
