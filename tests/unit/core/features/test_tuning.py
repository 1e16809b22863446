"""Tuning: A minimizes the second moment, and tuned features have less variance."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.features import RandomFeatures, features_of
from dtheta.core.features.tuning import best_A
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from tests.unit.core.features.reference import PAIRS, points

x, W = points(8, 0.9, 6, name="x"), points(8, 0.3, 5, name="w")


@given(energy=st.floats(0, 50), inputs=st.integers(1, 2000), factor=st.floats(0, 3))
def test_A_minimizes_the_second_moment(energy, inputs, factor):
    def log_moment(A):
        k, j = 1 + 4 * A, 1 + 8 * A
        return inputs * (math.log(k) - math.log(j) / 2) + 2 * k / j * energy

    A = best_A(energy, inputs)
    assert A >= 0
    assert log_moment(A) <= log_moment(A * factor) + 1e-9 * (1 + energy)
    # and it is a stationary point
    step = 1e-5
    slope = (log_moment(A + step) - log_moment(A - step)) / (2 * step)
    assert abs(slope) <= 1e-3 * (inputs + energy)


def test_A_is_the_published_form():
    s, d = 1.7, 8
    r = (math.sqrt((2 * s + d) ** 2 + 8 * d * s) - 2 * s - d) / (4 * s)
    assert best_A(s, d) == pytest.approx((1 / r - 1) / 8)
    assert best_A(0.0, 3) == 0.0


def phase_averaged(features):
    """The mean second moment of pairs over the phase exp(i omega b), for functions of frequencies."""
    if features.function == "exp":
        return features.variance(x, W).mean()
    if features.function in ("gelu", "tanh"):  # their mass near omega = 0 has one phase
        return features.variance(x, W).mean()
    if features.function in ("sin", "cos"):
        shifts = (0.0, math.pi / 2)
        variances = [features.variance(x, W, torch.full((5,), shift, dtype=torch.float64)) for shift in shifts]
        return torch.stack(variances).mean()
    return features.variance(x, W, torch.full((5,), 40.0, dtype=torch.float64)).mean()  # as many phases as frequencies


@pytest.mark.parametrize(("function", "split"), PAIRS)
def test_tuned_features_have_less_variance(function, split):
    tuned = features_of(function, x, W, 1, split=split)
    plain = RandomFeatures(function, 8, 1, split=split)
    assert phase_averaged(tuned) < phase_averaged(plain)
    assert bool(tuned.variance(x, W).isfinite().all())


@pytest.mark.parametrize("function", ["exp", "sin", "gaussian", "gelu", "tanh"])
def test_balance_and_tilt_are_near_the_best(function):
    tuned = features_of(function, x, W, 1)
    assert tuned.balance == pytest.approx(math.sqrt(0.3 / 0.9))
    best = tuned.variance(x, W).mean()
    for factor in (0.8, 1.25):
        assert best <= 1.001 * replace(tuned, balance=tuned.balance * factor).variance(x, W).mean()
    if tuned.tilt:
        assert best <= 1.02 * replace(tuned, tilt=0.0).variance(x, W).mean()


def test_the_one_sided_balance_of_the_bump_is_the_best():
    for split in ("x-trig", "w-trig"):
        tuned = features_of("gaussian", x, W, 1, split=split, A=0.0)
        for factor in (0.9, 1.1):
            assert phase_averaged(tuned) < phase_averaged(replace(tuned, balance=tuned.balance * factor))


def test_what_is_given_is_kept():
    tuned = features_of("gelu", x, W, 9, A=0.0, balance=2.0, tilt=0.1, seed=4, projection="sobol", bias=False)
    assert tuned == RandomFeatures("gelu", 8, 9, seed=4, projection="sobol", balance=2.0, tilt=0.1, bias=False)
    assert features_of("relu", x, W, 9) == RandomFeatures("relu", 8, 9)


def test_zeros_and_leading_dimensions_are_taken():
    assert features_of("sin", torch.zeros(2, 3, 8), W, 4).balance == 1.0
    assert features_of("sin", x.expand(3, 6, 8), W, 4) == features_of("sin", x, W, 4)


@pytest.mark.parametrize(
    ("function", "options", "norm", "message"),
    [
        ("tanh", {}, 2.0, r"is .*; expected less than 3\.142. Scale"),
        ("tanh", {"tilt": 0.1}, 1.1, r"expected less than 1\.671"),
        ("gaussian", {"split": "x-trig", "balance": 1.0}, 0.8, "expected less than 0.5. Use split='symmetric'"),
    ],
)
def test_infinite_variance_is_refused(function, options, norm, message):
    with pytest.raises(ConfigError, match=message):
        features_of(function, points(8, norm, 6), points(8, norm, 5), 4, **options)


def test_bad_batches_are_refused():
    with pytest.raises(ShapeMismatch, match=r"x is \(6, 8\) and W \(5, 7\)"):
        features_of("sin", x, W[:, :7], 4)
    for bad in (x[:0], x * math.nan, x / 0):
        with pytest.raises(NonFinite, match="empty or hold NaN"):
            features_of("sin", bad, W, 4)
