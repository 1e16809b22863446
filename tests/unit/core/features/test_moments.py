"""Moments: the variances are those of simulated draws, and the closed forms of the papers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.features import Draws, RandomFeatures
from tests.unit.core.features.reference import PAIRS, draw_estimates, linear_part, points

x, W = points(5, 0.25, 2, name="x"), points(5, 0.35, 2, name="w")
b = torch.tensor([0.0, 0.5], dtype=torch.float64)
OPTIONS = [{}, {"A": 0.06, "balance": 1.1}, {"antithetic": True, "A": -0.01}]


def all_rows_and_frequencies(features):
    """Rows and frequencies of one input on a grid, and their probabilities."""
    g, v = torch.linspace(-13, 13, 400, dtype=torch.float64), (torch.arange(300, dtype=torch.float64) + 0.5) / 60
    chances = torch.exp(-g * g / 2) / math.sqrt(2 * math.pi) * (g[1] - g[0])
    omega, masses = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if features.spectrum.drawn:
        omega, masses = v * v, features.spectrum.log_density(v * v, features.tilt).exp() * 2 * v / 60
    G, O = torch.meshgrid(g, omega, indexing="ij")
    return Draws(G.reshape(-1, 1), O.reshape(-1), torch.zeros(G.numel())), torch.outer(chances, masses).reshape(-1)


@pytest.mark.parametrize(("function", "split"), PAIRS)
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "A", "antithetic"])
def test_mean_and_variance_are_the_integrals_over_rows_and_frequencies(function, split, options):
    tilt = 0.2 if function in ("gaussian", "gelu", "tanh") else 0.0
    features = RandomFeatures(function, 1, 1, split=split, tilt=tilt, **({"antithetic": None} | options))
    u, v = torch.tensor([[0.35], [-0.2]], dtype=torch.float64), torch.tensor([[0.45], [0.1]], dtype=torch.float64)
    draws, chances = all_rows_and_frequencies(features)
    T = draw_estimates(features, u, v, b, draws)
    mean = (T * chances).sum(2)
    found = mean + linear_part(features, u, v, b)
    torch.testing.assert_close(found, features.kernel(u, v, b), rtol=0, atol=1e-4)
    variance = (T.square() * chances).sum(2) - mean.square()
    torch.testing.assert_close(features.variance(u, v, b), variance, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("function", "split"), PAIRS)
def test_the_variance_is_that_of_simulated_draws(function, split):
    features = RandomFeatures(function, 5, 50_000, seed=2, split=split, A=0.06)
    mean = features.kernel(x, W, b) - linear_part(features, x, W, b)
    squares = (draw_estimates(features, x, W, b) - mean[..., None]).square()
    standard_error = squares.std(2) / math.sqrt(features.count)
    errors = (squares.mean(2) - features.variance(x, W, b) * features.count) / standard_error
    assert errors.square().mean().sqrt() <= 3


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_variance_of_relu_is_that_of_simulated_draws(antithetic, bias):
    features = RandomFeatures("relu", 5, 100_000, seed=1, antithetic=antithetic, bias=bias)
    phi, psi = features.phi(x), features.psi(W, b if bias else None)
    draws = (phi[:, None] * psi).reshape(2, 2, -1, features.count).sum(2) * features.count
    kernel, variance = (f(x, W, b if bias else None) for f in (features.kernel, features.variance))
    squares = (draws - kernel[..., None]).square()
    assert ((draws.mean(2) - kernel).square() / variance).mean().sqrt() <= 3
    standard_error = squares.std(2) / math.sqrt(features.count)
    assert ((squares.mean(2) - variance * features.count) / standard_error).square().mean().sqrt() <= 3


def test_lam_with_any_A_has_the_exponential_as_its_mean():
    for A in (-0.05, 0.0, 0.2):
        features = RandomFeatures("exp", 5, 100_000, A=A)
        estimate = features.phi(x) @ features.psi(W).mT
        error = estimate - torch.exp(x @ W.mT)
        assert (error.square() / features.variance(x, W)).mean().sqrt() <= 3


def test_known_variances():
    sums = (x[:, None] + W).square().sum(2)
    xx, ww, z = x.square().sum(1)[:, None], W.square().sum(1), x @ W.mT
    exp = torch.exp(2 * z) * torch.expm1(sums)
    torch.testing.assert_close(RandomFeatures("exp", 5, 1).variance(x, W), exp)
    # the mean of |T|^2 over sin and cos, whose squares add up to |Z|^2
    both = sum(
        RandomFeatures(f, 5, 1).variance(x, W) + RandomFeatures(f, 5, 1).kernel(x, W) ** 2 for f in ("sin", "cos")
    )
    torch.testing.assert_close(both, torch.exp(sums))
    both = sum(
        RandomFeatures(f, 5, 1, split="x-trig").variance(x, W) + RandomFeatures(f, 5, 1).kernel(x, W) ** 2
        for f in ("sin", "cos")
    )
    torch.testing.assert_close(both, torch.exp(xx + ww))


@given(angle=st.floats(0, math.pi), scale=st.floats(0.1, 5))
def test_the_arc_cosine_kernel(angle, scale):
    u = torch.tensor([[scale, 0.0]], dtype=torch.float64)
    v = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    features = RandomFeatures("relu", 2, 1, bias=False)
    expected = scale * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    assert float(features.kernel(u, v)) == pytest.approx(expected, abs=1e-7 * scale)
    assert float(features.variance(u, v)) > -1e-9


def test_variances_are_infinite_where_they_are():
    one = torch.ones(1, 1, dtype=torch.float64)
    tanh = RandomFeatures("tanh", 1, 1)  # finite for |x + w|^2 < pi/2
    assert bool(tanh.variance(0.62 * one, 0.62 * one).isfinite()) and bool(
        tanh.variance(0.63 * one, 0.63 * one).isinf()
    )
    bump = RandomFeatures("gaussian", 1, 1, split="x-trig")  # finite for |x|^2 < 1/2
    assert bool(bump.variance(0.7 * one, 3 * one).isfinite()) and bool(bump.variance(0.71 * one, 0 * one).isinf())
    assert bool(RandomFeatures("gelu", 1, 1).variance(3 * one, 3 * one).isfinite())


@given(function=st.sampled_from(["exp", "sin", "gaussian", "gelu", "tanh", "relu"]), norm=st.floats(0, 0.6))
def test_variances_are_positive_and_fall_with_the_count(function, norm):
    few, many = (RandomFeatures(function, 5, count).variance(norm * x, W, b) for count in (1, 10))
    assert bool((few >= -1e-9).all())
    torch.testing.assert_close(few / 10, many)


def test_a_leading_shape_is_kept():
    features = RandomFeatures("sin", 5, 3)
    wide = x.expand(4, 2, 5)
    assert features.kernel(wide, W).shape == features.variance(wide, W).shape == (4, 2, 2)
    assert features.variance(x[:0], W).shape == (0, 2)


@pytest.mark.parametrize("function", ["exp", "sin", "cos", "gaussian", "tanh", "gelu", "relu"])
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 10.0, 1e3])
def test_variances_are_never_below_zero_nor_nan(function, scale):
    draw = torch.Generator().manual_seed(0)
    x, W = (scale * torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (6, 4))
    found = RandomFeatures(function, 5, 16).variance(x, W)
    assert not found.isnan().any() and (found >= 0).all()
