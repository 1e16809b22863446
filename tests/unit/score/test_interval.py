"""Intervals against SciPy's closed forms and bootstrap, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.score import (
    Accuracy,
    Interval,
    MacroF1,
    bootstrap,
    bootstrap_bounds,
    mean_interval,
    metric_interval,
    paired_bootstrap,
    paired_interval,
    paired_shares,
    wilson,
)
from dtheta.score.interval import resample_counts
from dtheta.score.student import student_cdf, student_quantile

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [1, 2, 3, 4.5, 9, 30, 1000])
@pytest.mark.parametrize("probability", [0.005, 0.1, 0.4999, 0.5, 0.6, 0.9, 0.975, 0.9995])
def test_student_equals_scipy(freedom: float, probability: float) -> None:
    t = student_quantile(probability, freedom)
    assert t == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-12)
    assert student_cdf(t, freedom) == pytest.approx(probability, rel=1e-10)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (1, 7), (47, 50), (50, 50), (200, 1000)])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_wilson_equals_scipy(successes: int, count: int, level: float) -> None:
    ours = wilson(successes, count, level)
    theirs = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.estimate <= ours.high <= 1


def test_mean_and_paired_intervals_equal_scipy() -> None:
    a, b = [0.91, 0.93, 0.90, 0.94, 0.92], [0.90, 0.90, 0.89, 0.93, 0.90]
    theirs = stats.t.interval(0.95, 4, loc=np.mean(a), scale=stats.sem(a))
    ours = mean_interval(a)
    assert (ours.low, ours.high) == pytest.approx(theirs, rel=1e-10)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    paired = paired_interval(a, b, 0.9)
    assert (paired.low, paired.high) == pytest.approx((theirs.low, theirs.high), rel=1e-10)


@pytest.mark.parametrize(("kind", "scipy_kind"), [("percentile", "percentile"), ("bca", "BCa")])
@pytest.mark.parametrize("sample", ["skewed", "binary"])
def test_bootstrap_agrees_with_scipy_within_its_noise(kind: str, scipy_kind: str, sample: str) -> None:
    generator = np.random.default_rng(0)
    values = generator.exponential(size=80) if sample == "skewed" else (generator.random(300) < 0.9).astype(float)
    ours = bootstrap(torch.from_numpy(values), kind=kind, resamples=4000)
    theirs = stats.bootstrap((values,), np.mean, method=scipy_kind, n_resamples=4000, rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.08 * width and abs(ours.high - theirs.high) < 0.08 * width


def test_bca_bends_towards_the_long_tail() -> None:
    values = torch.from_numpy(np.random.default_rng(3).exponential(size=60))
    plain, corrected = (bootstrap(values, kind=kind) for kind in ("percentile", "bca"))
    assert corrected.low > plain.low and corrected.high > plain.high


def test_draws_depend_on_seed_and_name_alone() -> None:
    values = torch.arange(40.0)
    torch.manual_seed(1)
    first = bootstrap(values, seed=5)
    torch.rand(3)
    assert bootstrap(values, seed=5) == first
    assert bootstrap(values, seed=6) != first and bootstrap(values, seed=5, name="other") != first


def test_function_of_several_means() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 1, 200))
    ratio = bootstrap([x, x.square()], lambda mean, square: (square - mean**2).sqrt(), resamples=500)
    assert ratio.estimate == pytest.approx(float(x.std(correction=0)))
    assert ratio.low < 1 < ratio.high


def test_metric_intervals_hold_the_metric_and_agree_with_wilson() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (400,), generator=generator)
    labels = torch.where(torch.rand(400, generator=generator) < 0.8, target, (target + 1) % 3)
    accuracy = metric_interval(Accuracy(), labels, target)
    reference = wilson(int((labels == target).sum()), 400)
    assert (accuracy.low, accuracy.high) == pytest.approx((reference.low, reference.high), abs=0.006)
    f1 = metric_interval(MacroF1(3), labels, target, resamples=300)
    assert f1.low < f1.estimate < f1.high and f1.method == "bootstrap-bca"


def test_pairing_narrows_the_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    difficulty = torch.rand(500, generator=generator)
    a, b = (difficulty < 0.90).double(), (difficulty < 0.85).double()
    paired = paired_bootstrap(a, b, resamples=500)
    assert paired.estimate == pytest.approx(float((a - b).mean())) and paired.excludes(0)
    assert paired.high - paired.low < wilson(float(a.sum()), 500).high - wilson(float(a.sum()), 500).low


@pytest.mark.parametrize("kind", ["t", "wilson"])
def test_coverage_is_near_the_level(kind: str) -> None:
    generator = np.random.default_rng(0)
    trials, inside = 300, 0
    for _ in range(trials):
        if kind == "t":
            inside += not mean_interval(generator.normal(0.3, 1, 5).tolist(), 0.9).excludes(0.3)
        else:
            inside += not wilson(int(generator.binomial(60, 0.3)), 60, 0.9).excludes(0.3)
    assert inside / trials == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / trials))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: wilson(3, 2), ConfigError, "3 of 2"),
        (lambda: wilson(0, 0), ConfigError, "count > 0"),
        (lambda: wilson(1, 2, level=95), ConfigError, "found 95"),
        (lambda: mean_interval([0.9]), ConfigError, "at least 2"),
        (lambda: mean_interval([0.9, float("nan")]), NonFinite, "1 of 2"),
        (lambda: paired_interval([1.0, 2.0], [1.0]), ShapeMismatch, "cannot be paired"),
        (lambda: bootstrap(torch.ones(30)), NotConverged, "wilson"),
        (lambda: bootstrap(torch.ones(30), kind="basic"), ConfigError, "percentile"),
        (lambda: bootstrap([torch.ones(3), torch.ones(4)]), ShapeMismatch, "one N"),
        (lambda: student_quantile(1.0, 3), ConfigError, "probability"),
        (lambda: wilson(1, math.inf), ConfigError, "count > 0"),
        (lambda: bootstrap(torch.rand(9), resamples=1), ConfigError, "resamples is 1"),
        (lambda: bootstrap_bounds([torch.rand(9)], lambda mean: mean, resamples=1), ConfigError, "resamples is 1"),
        (lambda: paired_shares(torch.ones(2, 3), torch.zeros(2, 3)), ShapeMismatch, r"expected \(N,\)"),
        (lambda: paired_bootstrap(torch.rand(5, 3), torch.rand(5, 3)), ShapeMismatch, r"expected \(N,\)"),
    ],
)
def test_refusals(act, error, message) -> None:
    with pytest.raises(error, match=message):
        act()


def test_interval_says_what_it_excludes() -> None:
    interval = Interval(0.5, 0.4, 0.6)
    assert interval.excludes(0.39) and not interval.excludes(0.4) and str(interval) == "0.5 [0.4, 0.6]"


def test_nothing_is_clear_without_bounds() -> None:
    nan = float("nan")
    assert not Interval(0.5, nan, nan).excludes(0.0) and not Interval(nan, nan, nan).excludes(0.0)


def test_paired_shares_are_unsure_where_few_pairs_differ() -> None:
    same, three = torch.ones(100), torch.ones(100)
    three[:3] = 0
    alike, more = paired_shares(same, same), paired_shares(same, three)
    assert alike.estimate == 0.0 and alike.low == pytest.approx(-alike.high) and 0.02 < alike.high < 0.03
    assert more.estimate == pytest.approx(0.03) and not more.excludes(0.0)  # exact McNemar: p = 0.25
    three[:10] = 0
    assert paired_shares(same, three).excludes(0.0)  # p = 0.002
    assert paired_shares(torch.ones(5), torch.zeros(5)).high == 1.0


@pytest.mark.parametrize(("count", "p", "q"), [(60, 0.03, 0.03), (100, 0.05, 0.02), (400, 0.02, 0.02), (200, 0.3, 0.1)])
def test_paired_shares_cover_the_truth(count: int, p: float, q: float) -> None:
    draws = torch.rand(2000, count, generator=generator(0, f"shares/{count}"))
    covered = [not paired_shares((d < p).double(), ((d >= p) & (d < p + q)).double()).excludes(p - q) for d in draws]
    assert sum(covered) / len(covered) > 0.935  # 0.95 less three standard errors


def test_paired_shares_takes_zeros_and_ones_only() -> None:
    with pytest.raises(ConfigError, match="each 0 or 1"):
        paired_shares([0.5, 1.0], [0.0, 1.0])
    with pytest.raises(ConfigError, match="at least one pair"):
        paired_shares([], [])


def dependent(trials: int, count: int, seed: int) -> torch.Tensor:
    """Moving averages over 8: neighbors share most of what they are."""
    noise = torch.randn(trials, count + 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.unfold(1, 8, 1).mean(-1)


def test_blocks_cover_means_of_dependent_values_and_single_draws_do_not() -> None:
    values = dependent(trials=200, count=120, seed=0)
    covered = dict.fromkeys((1, 16), 0)
    for block in covered:
        for one in values:
            low, high = bootstrap_bounds([one], lambda mean: mean, resamples=200, block=block)[1:]
            covered[block] += bool(low <= 0 <= high)
    assert covered[1] < 120  # 60 % where 95 % were promised
    assert covered[16] > 165  # 83 %: 120 values are seven or eight independent blocks


def test_blocks_are_neighbors_around_the_end() -> None:
    counts_RN = resample_counts(10, 500, 0, "blocks", block=10)
    assert torch.equal(counts_RN, torch.ones(500, 10, dtype=torch.float64))  # all of them, from anywhere
    counts_RN = resample_counts(10, 500, 0, "blocks", block=4)
    assert bool((counts_RN.sum(1) == 10).all())  # the last block is cut
    assert torch.allclose(counts_RN.mean(0), torch.ones(10, dtype=torch.float64), atol=0.1)
    neighbors = (counts_RN * counts_RN.roll(1, 1)).mean() - (counts_RN * counts_RN.roll(5, 1)).mean()
    assert float(neighbors) > 0.2


def test_bounds_of_many_are_those_of_each() -> None:
    values = torch.randn(30, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    estimate, low, high = bootstrap_bounds([values, values.square()], lambda m, s: (s - m * m).sqrt(), resamples=50)
    for i in range(3):
        for j in range(2):
            part = values[:, i, j]
            alone = bootstrap([part, part.square()], lambda m, s: (s - m * m).sqrt(), kind="percentile", resamples=50)
            found = (float(estimate[i, j]), float(low[i, j]), float(high[i, j]))
            assert found == pytest.approx((alone.estimate, alone.low, alone.high))


def test_resamples_without_a_value_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = torch.tensor([1.0, 0.0, 0.0])
    estimate, low, high = bootstrap_bounds([happened, happened], lambda a, b: a / b, resamples=100)
    assert (float(estimate), float(low), float(high)) == (1.0, 1.0, 1.0)
    monkeypatch.setattr("dtheta.score.interval._HELD", 7)
    values = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    parts = bootstrap_bounds([values], lambda m: m, resamples=33)
    monkeypatch.undo()
    for a, b in zip(parts, bootstrap_bounds([values], lambda m: m, resamples=33), strict=True):
        torch.testing.assert_close(a, b)


def test_blocks_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="blocks of 2 examples have percentile intervals"):
        bootstrap(torch.randn(9), block=2)
    for block in (0, 10):
        with pytest.raises(ConfigError, match=f"blocks of {block} examples; expected 1 to 9"):
            bootstrap_bounds([torch.randn(9)], lambda m: m, block=block)
