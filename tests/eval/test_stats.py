"""Statistics against published worked examples and against scipy and statsmodels called another way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from eval.reporting.stats import (
    holm,
    mcnemar,
    paired,
    stratified_interval,
    too_few,
    verdict,
    wilson,
)


# Newcombe 1998, Statistics in Medicine 17:857-872, Table I, method 3 (score, no continuity correction).
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_newcombe(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 7), (50, 100), (100, 100)])
def test_wilson_scipy(right, n):
    theirs = scipy_stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def bootstrap_interval(d, seed: int = 0) -> tuple[float, float]:
    test = paired([pd.Series(d, dtype=float)], seed)
    return test["low"], test["high"]


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return np.array(a, float), np.array(b, float)


# Fagerland, Lydersen, Laake 2013, BMC Medical Research Methodology 13:91: exact conditional test of both examples.
@pytest.mark.parametrize(("only_a", "only_b", "p"), [(1, 7, 0.070), (6, 16, 0.052)])
def test_mcnemar_exact(only_a, only_b, p):
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=5e-4)


def test_mcnemar_many_discordant():
    # Approval ratings (Agresti, Categorical Data Analysis): near the chi-square (|150 - 86| - 1)^2 / 236.
    assert mcnemar(150, 86) == pytest.approx(scipy_stats.chi2.sf(63**2 / 236, 1), rel=0.1)


def test_mcnemar_no_discordant_is_one():
    assert mcnemar(0, 0) == 1.0


def test_too_few_is_what_the_exact_test_cannot_decide():
    for differing in range(1, 12):
        assert too_few(differing, n=1000) == (mcnemar(differing, 0) > 0.05)
    # With a margin: 122 questions without a loss are the first to be less likely than 1 in 40 where 3 % are lost.
    assert too_few(0, 121, margin=0.03) and not too_few(0, 122, margin=0.03)
    assert scipy_stats.binom.pmf(0, 122, 0.03) < 0.025 < scipy_stats.binom.pmf(0, 121, 0.03)


@pytest.mark.parametrize(
    ("only_a", "only_b", "same", "word"),
    [
        (3, 0, 0, "too few"),  # all three won: an interval of [1, 1], and nothing shown
        (5, 0, 1, "too few"),
        (6, 0, 0, "holds"),
        (7, 1, 0, "not shown"),  # a bootstrap interval above 0, but p = 0.07
        (0, 6, 30, "does not hold"),
        (30, 30, 40, "not shown"),
        (40, 10, 50, "holds"),
        (0, 0, 500, "too few"),
    ],
)
def test_verdicts(only_a, only_b, same, word):
    a, b = outcomes(same, only_a, only_b, 0)
    assert verdict(**paired([pd.Series(a - b)])) == word


@pytest.mark.parametrize(
    ("only_b", "same", "word"),
    [
        (0, 50, "too few"),
        (0, 200, "holds"),
        (10, 190, "not shown"),
        (60, 140, "does not hold"),
        (8, 12, "does not hold"),
    ],
)
def test_not_below_by_more_than_a_margin(only_b, same, word):
    a, b = outcomes(same, 0, only_b, 0)
    assert verdict(**paired([pd.Series(a - b)]), margin=0.03) == word


def test_holm_worked_example():
    # 0.01, 0.04, 0.03, 0.005: the textbook example; the first and last are significant at 0.05.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_bootstrap_is_scipys_paired_one():
    rng = np.random.default_rng(3)
    a, b = rng.random(60) < 0.7, rng.random(60) < 0.5
    theirs = scipy_stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis=-1: x.mean(axis) - y.mean(axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = bootstrap_interval(a.astype(float) - b.astype(float), seed=2)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_bootstrap_close_to_the_normal_interval():
    a, b = outcomes(300, 120, 60, 120)
    d = a - b
    half = 1.96 * d.std() / np.sqrt(len(d))
    assert bootstrap_interval(d) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.004)


def test_bootstrap_depends_on_the_seed_alone():
    d = np.tile([1.0, 0.0, 0.0, -1.0, 1.0], 20)
    assert bootstrap_interval(d, 7) == bootstrap_interval(d, 7) != bootstrap_interval(d, 8)


@pytest.mark.parametrize(("d", "interval"), [([0.0] * 9, (0.0, 0.0)), ([1.0], (1.0, 1.0))])
def test_bootstrap_of_what_does_not_vary(d, interval):
    assert bootstrap_interval(d) == interval


def test_stratified_interval_is_that_of_independent_samples():
    """A sum over strata: its standard error is the root of the sum of the strata's squares."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.1, 1, 300), rng.normal(0.3, 2, 200)
    low, high = stratified_interval([a / 300, b / 200], seed=1)
    half = 1.96 * np.sqrt(a.var() / 300 + b.var() / 200)
    assert (low, high) == pytest.approx((a.mean() + b.mean() - half, a.mean() + b.mean() + half), abs=0.02)
    assert stratified_interval([a / 300], seed=5) == bootstrap_interval(a, seed=5)
    assert stratified_interval([[0.5], [0.1, 0.1]]) == (0.7, 0.7) and stratified_interval([]) == (-np.inf, np.inf)


def test_shares_that_cancel_do_not_pass_for_a_difference():
    d = np.array([1.0, -1.0] * 3 + [0.0] * 893)
    low, high = stratified_interval([d / len(d) / 3] * 3)
    assert low < 0 < high
    assert bootstrap_interval(np.array([1.0] + [0.0] * 899))[0] == 0.0


def test_paired():
    a, b = outcomes(50, 30, 10, 10)
    test = paired([pd.Series(a - b)])
    assert (test["diff"], test["only_a"], test["only_b"], test["n"]) == (pytest.approx(0.2), 30, 10, 100)
    assert test["low"] > 0 and test["p"] == mcnemar(30, 10)


def test_p_of_several_runs_counts_a_question_once():
    first = pd.Series([1.0, 1.0, 0.0, -1.0], index=list("abcd"))
    second = pd.Series([1.0, -1.0, 1.0], index=list("abe"))
    test = paired([first, second])
    # a: 1/8 + 1/6; b: 1/8 - 1/6; d: -1/8; e: 1/6
    assert (test["only_a"], test["only_b"], test["n"]) == (2, 2, 5) and test["p"] == 1.0
    assert test["diff"] == pytest.approx((first.mean() + second.mean()) / 2)


def test_intervals_cover():
    """95 % intervals hold the truth about 95 times in 100, also for the difference that claims rest on."""
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(100):
        a, b = rng.random(150) < 0.7, rng.random(150) < 0.6
        low, high = bootstrap_interval(a.astype(float) - b, seed=trial)
        inside += low <= 0.1 <= high
    assert 88 <= inside <= 100
