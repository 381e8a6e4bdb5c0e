"""What is compared with what, which of the claims (a) to (e) that bears on, and what runs say together.

A claim holds where each comparison that it rests on does; `stats.verdict` says when one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from eval.reporting.runs import BEST, MAJORITY, ORACLE, ROUTER, Run, System
from eval.reporting.stats import FAILS, FEW, HOLDS, OPEN, UNTESTED, holm, paired, verdict

# Names of leaders with a meaning; grpo_tokens: plain GRPO on as many generated tokens, the team's counted; no_rounds:
# MLPO that has met round 0 only, on as many leader outputs.
UNTRAINED, GRPO, GRPO_TOKENS, BASE, NO_SFT = "untrained", "grpo", "grpo_tokens", "base", "mlpo_no_sft"
NO_ROUNDS = "no_rounds"
MARGIN = 0.03  # what "not below" allows
CLAIMS = {
    "a": "leader + team beats the best agent, majority vote, the untrained leader with the same team, and where they "
    "were evaluated the router, leader_vote and mixture_of_agents on equal generations",
    "a, one round": "the same after the first round, without the agents' revisions",
    "b": "accuracy rises with rounds (last - first), and in no round is the leader below itself before MLPO, less "
    f"{MARGIN}",
    "c": "the trained leader is better alone, than before and than after plain GRPO on as many leader outputs, and "
    "where it was evaluated on as many generated tokens",
    "d": "it holds up when one agent is right (better than vote and untrained leader), or none (not below the leader "
    f"alone, less {MARGIN})",
    "e": "with a team of at least three agents that it never saw, it beats that team's majority vote",
}
AGENTS_RIGHT = {None: "", 0: ", no agent right", 1: ", one agent right"}


@dataclass(frozen=True)
class Pair:
    """System `a` against `b`; only where `right` agents' first responses are right, if given."""

    a: System
    b: System
    claim: str = field(default="", compare=False)
    right: int | None = None
    margin: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        last_and_first = self.b.round == 0 and self.a == self.b.at(None)
        systems = f"{self.a} last round - first round" if last_and_first else f"{self.a} - {self.b}"
        return systems + AGENTS_RIGHT[self.right] + (", not below" if self.margin and self.right is None else "")

    def differences(self, run: Run) -> pd.Series | None:
        """Outcomes of `a` less those of `b` by question, or None where the run has not evaluated them."""
        if not (run.has(self.a) and run.has(self.b)):
            return None
        chosen = slice(None) if self.right is None else run.questions["n_correct_agents"].eq(self.right)
        differences = (run.outcomes(self.a) - run.outcomes(self.b))[chosen]
        return differences if len(differences) else None


def claim_pairs(run: Run, unseen: bool = False) -> list[Pair]:
    """The comparisons that the claims on the first leader rest on, those that were not evaluated included.

    `unseen`: the run's team is one that the leader was not trained with, which claim (e) alone is about.
    """
    first = run.leaders[0]
    if unseen:
        return [Pair(System("leader_team", first), MAJORITY, "e")] if len(run.agents) >= 3 else []
    team, solo, before = System("leader_team", first), System("leader_solo", first), System("leader_team", UNTRAINED)
    equal = [s for s in run.table if s.budget == "generations" and (s.method, s.leader) == ("leader_vote", first)]
    equal += [s for s in run.table if s.budget == "generations" and s.method == "mixture_of_agents"]
    others = [BEST, MAJORITY, before, *([ROUTER] if run.has(ROUTER) else []), *equal]
    pairs = [Pair(team, other, "a") for other in others]
    if run.has(team) and run.rounds(team).shape[1] > 1:
        # What training on round 0 is for is one round: the later ones also ask of the agents that they can revise.
        pairs += [Pair(team.at(0), other.at(0) if other == before else other, "a, one round") for other in others]
        pairs.append(Pair(team, team.at(0), "b"))
        pairs += [Pair(team.at(t), before.at(t), "b", margin=MARGIN) for t in run.rounds(team)]
    alone = [System("leader_solo", name) for name in (UNTRAINED, GRPO, GRPO_TOKENS)]
    pairs += [Pair(solo, other, "c") for other in alone if other.leader != GRPO_TOKENS or run.has(other)]
    if len(run.agents) > 2:  # one of two is not few
        pairs += [Pair(team, MAJORITY, "d", right=1), Pair(team, before, "d", right=1)]
    return [*pairs, Pair(team, solo, "d", right=0, margin=MARGIN)]


def all_pairs(run: Run, unseen: bool = False) -> list[Pair]:
    """The claims' pairs, then the first leader against all others, then the steps of training; none twice."""
    if not run.leaders:
        return []
    team, solo = System("leader_team", run.leaders[0]), System("leader_solo", run.leaders[0])
    more = [Pair(team, other) for other in run.table if other != ORACLE]
    more += [Pair(solo, other) for other in run.table if other.method == "leader_solo"]
    more += [pair for pair, _ in step_pairs(run.leaders)]
    return [pair for pair in dict.fromkeys([*claim_pairs(run, unseen), *more]) if pair.a != pair.b]


def compare(runs: Sequence[Run], unseen: bool = False) -> pd.DataFrame:
    """By pair: claim, `stats.paired` over the runs, verdict; `p_holm` is left to `adjust`."""
    rows = {}
    for pair in dict.fromkeys(pair for run in runs for pair in all_pairs(run, unseen)):
        differences = [d for d in map(pair.differences, runs) if d is not None]
        test = paired(differences, seed=runs[0].seed) if differences else {}
        word = verdict(**test, margin=pair.margin) if test else UNTESTED
        rows[pair] = {"claim": pair.claim, **test, "verdict": word}
    columns = ["claim", "diff", "low", "high", "p", "p_holm", "only_a", "only_b", "n", "verdict"]
    tests = pd.DataFrame(rows.values(), index=pd.Index(rows, dtype=object, name="pair"), columns=columns)
    return tests.astype({"only_a": "Int64", "only_b": "Int64", "n": "Int64"})


def adjust(tables: Sequence[pd.DataFrame]) -> None:
    """Fill in `p_holm`, adjusted by Holm over the claims' pairs of all tables, and give the verdicts on these by it.

    Of being "not below" p says nothing: the interval alone decides, and such a pair is not in the family.
    """
    families = [[x for x in t.index[(t["claim"] != "") & t["p"].notna()] if not x.margin] for t in tables]
    p_values = [p for tests, family in zip(tables, families, strict=True) for p in tests.loc[family, "p"]]
    adjusted = iter(holm(p_values))
    for tests, family in zip(tables, families, strict=True):
        for pair in family:
            p = tests.loc[pair, "p_holm"] = next(adjusted)
            row = tests.loc[pair, ["diff", "low", "high", "only_a", "only_b", "n"]].to_dict()
            tests.loc[pair, "verdict"] = verdict(**row, p=p, margin=pair.margin)


def combined(parts: pd.DataFrame) -> str:
    """The verdict on a claim from those on its parts; says so when some were not evaluated."""
    tested = parts[parts["verdict"] != UNTESTED]
    words = set(tested["verdict"])
    if not words:
        return UNTESTED
    word = FAILS if FAILS in words else HOLDS if words == {HOLDS} else OPEN if OPEN in words else FEW
    if word == FEW:
        word += f" (n={tested.loc[tested['verdict'] == FEW, 'n'].min():.0f})"
    return word + (f" ({len(tested)} of {len(parts)} parts tested)" if len(tested) < len(parts) else "")


def claims(tests: pd.DataFrame) -> dict[str, str]:
    """`{claim: verdict}` from the table of `compare`."""
    return {claim: combined(tests[tests["claim"] == claim]) for claim in CLAIMS}


def step_pairs(leaders: Sequence[str]) -> list[tuple[Pair, str]]:
    """What each step of training is compared with, and what it is, in the order of training.

    With the team in the first round, in the last, and alone; leaders of unknown names have no step.
    """
    first, sft = (*leaders, "")[0], "SFT + " if BASE in leaders else ""
    steps = {
        UNTRAINED: ("after SFT", (BASE,)),
        GRPO: (f"{sft}GRPO", (UNTRAINED,)),
        GRPO_TOKENS: (f"{sft}GRPO, as many tokens", (UNTRAINED,)),
        NO_SFT: ("MLPO without SFT", (BASE,)),
        NO_ROUNDS: (f"{sft}MLPO on round 0 only", (UNTRAINED, GRPO, GRPO_TOKENS)),
    }
    steps = {**steps, first: (f"{sft}MLPO", (UNTRAINED, GRPO, GRPO_TOKENS, NO_ROUNDS, NO_SFT, BASE))}
    return [
        (Pair(System(method, leader, round=number), System(method, before, round=number)), what)
        for method, number in (("leader_team", 0), ("leader_team", None), ("leader_solo", None))
        for leader, (what, others) in steps.items()
        for before in others
        if leader in leaders and before in leaders and before != first
    ]
