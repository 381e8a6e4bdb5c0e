"""Statistics of an evaluation: intervals, paired tests, verdicts. All of it is statsmodels' and scipy's.

An outcome is 1.0 (right) or 0.0 (wrong) per question; paired arrays hold the same questions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 9999
LEVEL = 0.05
HOLDS, FAILS, OPEN, FEW, UNTESTED = "holds", "does not hold", "not shown", "too few", "not tested"


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion; (0, 1) when nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    low, high = proportion_confint(successes, n, alpha=LEVEL, method="wilson")
    return float(low), float(high)


def stratified_interval(strata: Sequence[ArrayLike], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the sum of all values, each stratum resampled by itself.

    Give each value its share of what is estimated: `d / n` for a mean, `d / n / runs` for a mean over runs. The
    percentile method, because the bias-corrected one needs n x n memory. Nothing that varies: that value twice.
    """
    samples = [np.asarray(values, dtype=float) for values in strata]
    if not sum(map(len, samples)):
        return float("-inf"), float("inf")
    vary = [values for values in samples if (values != values[0]).any()]
    fixed = float(sum(values.sum() for values in samples if (values == values[0]).all()))
    if not vary:
        return fixed, fixed

    def total(*resampled: np.ndarray, axis: int = -1) -> np.ndarray:
        return sum(sample.sum(axis=axis) for sample in resampled)

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


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test, from the questions that only one of the two got right."""
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def shares(by_run: Sequence[pd.Series]) -> tuple[pd.Series, list[pd.Series]]:
    """Each question's share in the mean over runs (values by question id), and those shares by stratum.

    Runs weigh the same and questions are resampled within each run, as runs are trainings of their own on questions of
    their own. A question that several runs share moves all of them at once, so that its repeats are not taken for
    independent evidence: a stratum is the questions that are in the same runs.
    """
    parts = [values / (len(values) * len(by_run)) for values in by_run]
    wide = pd.concat(parts, axis=1, keys=range(len(parts))).sort_index()
    sums = wide.sum(axis=1)
    return sums, [part for _, part in sums.groupby(wide.notna().apply(tuple, axis=1))]


def paired(differences: Sequence[pd.Series], seed: int = 0) -> dict:
    """Two systems on the same questions, from their differences by question id (1, 0, -1), a Series per run.

    `diff`: the mean over runs; `low`, `high`: its 95 % interval; `only_a`, `only_b`: questions that tell for one or the
    other; `p`: McNemar's exact test of these; `n`: questions. It is about these trainings and more questions; how
    far trainings differ is seen in the runs' own differences.
    """
    sums, strata = shares(differences)
    only_a, only_b = int((sums > 0).sum()), int((sums < 0).sum())
    low, high = stratified_interval(strata, seed)
    counts = {"only_a": only_a, "only_b": only_b, "n": len(sums), "p": mcnemar(only_a, only_b)}
    return {"diff": float(sums.sum()), "low": low, "high": high, **counts}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values for the number of comparisons made."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def too_few(differing: int, n: int, margin: float = 0.0) -> bool:
    """Whether not even the clearest outcome of these questions could decide.

    The smallest two-sided p of the exact sign test (McNemar's) is that with all `differing` pairs on one side, 2 /
    2^differing: it takes six. With a margin it is the chance that n questions show no loss where that share is lost.
    """
    return (1 - margin) ** n > LEVEL / 2 if margin else 2 * 0.5**differing > LEVEL


def verdict(
    *, low: float, high: float, p: float, only_a: int, only_b: int, n: int, margin: float = 0.0, diff: float = 0.0
) -> str:
    """In words, what a paired comparison says: whether the difference is above 0, or with a `margin` above -margin.

    The 95 % interval decides, where p bears it out: the percentile interval of some ten differing pairs is too narrow,
    the exact p is not. Of being above -margin p says nothing; there `too_few` keeps handfuls out.
    """
    if high < -margin and p < LEVEL:
        return FAILS
    if too_few(only_a + only_b, n, margin):
        return FEW
    return HOLDS if low > -margin and (margin or p < LEVEL) else OPEN
