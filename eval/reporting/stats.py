"""Statistics of an evaluation: intervals, paired differences, tests. All of it is statsmodels' and scipy's.

An outcome is 1.0 (right) or 0.0 (wrong) per question; paired arrays hold the same questions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import bootstrap, permutation_test
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 9999
# Below this many discordant pairs McNemar's chi-square is too rough, and the exact binomial test is used.
EXACT_BELOW = 25


@dataclass(frozen=True)
class Paired:
    """Outcomes `a` against `b` on the same questions: mean difference, its 95 % interval, McNemar's p."""

    diff: float
    ci95: tuple[float, float]
    p: float
    only_a: int  # questions that only `a` got right
    only_b: int
    n: int

    def as_dict(self) -> dict:
        return {**asdict(self), "ci95": list(self.ci95)}


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    low, high = proportion_confint(successes, n, alpha=0.05, method="wilson")
    return float(low), float(high)


def bootstrap_interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean difference per question (questions are resampled: pairs stay)."""
    d = np.asarray(differences, dtype=float)
    return stratified_interval([d / len(d)] if len(d) else [], seed)


def stratified_interval(strata: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the sum of all values, each stratum resampled by itself.

    Give each value its share of what is estimated: `d / n` for a mean, `d / n / runs` for a mean over runs. The
    percentile method, because the bias-corrected one needs n x n memory. Nothing that varies: that value twice.
    """
    strata = [np.asarray(values, dtype=float) for values in strata]
    if not sum(map(len, strata)):
        return float("-inf"), float("inf")
    vary = [values for values in strata if (values != values[0]).any()]
    fixed = float(sum(values.sum() for values in strata if (values == values[0]).all()))
    if not vary:
        return fixed, fixed

    def total(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return sum(sample.sum(axis=axis) for sample in samples)

    result = bootstrap(
        vary,
        total,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=max(1, 2_000_000 // sum(map(len, vary))),  # bounds memory to some tens of MB
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    # Rounded, because a sum of shares that cancel leaves some 1e-18, and an end at 0 must not pass for one above it.
    low, high = result.confidence_interval
    return round(fixed + float(low), 12), round(fixed + float(high), 12)


def sign_flip(shares: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of no difference, from the sum of paired differences under random changes of their signs.

    scipy's permutation test of paired samples. With one pair per question and no weights it is McNemar's test; unlike
    it, it takes the mean of a question's several pairs. At least 2 / (resamples + 1) where not all signs can be tried.
    """
    moved = np.asarray(shares, dtype=float)
    moved = moved[moved != 0]
    if len(moved) < 2:  # either sign is as likely; scipy asks for two
        return 1.0
    test = permutation_test(
        (moved,),
        lambda sample, axis=-1: np.round(sample.sum(axis=axis), 12),  # equal sums must tie
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(moved)),
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    return float(min(1.0, test.pvalue))


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of McNemar's test: exact below `EXACT_BELOW` discordant pairs, else continuity-corrected."""
    a, b = np.asarray(a) > 0.5, np.asarray(b) > 0.5
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    discordant = table[0][1] + table[1][0]
    if discordant == 0:
        return 1.0
    return float(_mcnemar(table, exact=discordant < EXACT_BELOW, correction=True).pvalue)


def paired(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Paired:
    """Compare two methods on the same questions. Raises ValueError when the lengths differ."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired outcomes of {len(a)} and {len(b)} questions")
    d = a - b
    return Paired(
        diff=float(d.mean()) if len(d) else 0.0,
        ci95=bootstrap_interval(d, seed),
        p=mcnemar(a, b),
        only_a=int((d > 0).sum()),
        only_b=int((d < 0).sum()),
        n=len(d),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values for the number of comparisons made."""
    if not len(p_values):
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]
