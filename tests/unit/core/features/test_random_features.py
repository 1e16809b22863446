"""Phi and psi: equal to their definition in complex numbers, unbiased, and regenerated from their seed."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.features import Draws, RandomFeatures
from dtheta.core.seeds import generator
from tests.unit.core.features.reference import PAIRS, draw_estimates, linear_part, points

x, W = points(6, 0.5, name="x"), points(6, 0.4, name="w")
b = torch.tensor([-0.6, 0.0, 0.9], dtype=torch.float64)


@pytest.mark.parametrize(("function", "split"), PAIRS)
@pytest.mark.parametrize("options", [{}, {"A": 0.07, "balance": 1.3}, {"antithetic": True, "A": -0.02}])
def test_real_storage_is_the_complex_definition(function, split, options):
    tilt = 0.3 if function in ("gaussian", "gelu", "tanh") else 0.0
    features = RandomFeatures(function, 6, 11, split=split, tilt=tilt, **({"antithetic": None} | options))
    expected = draw_estimates(features, x, W, b).mean(2) + linear_part(features, x, W, b)
    phi, psi = features.phi(x), features.psi(W, b)
    assert phi.shape == (3, features.width) and psi.shape == (3, features.width)
    torch.testing.assert_close(phi @ psi.mT, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("function", "split"), [*PAIRS, ("relu", "symmetric")])
@pytest.mark.parametrize(
    "options", [{}, {"A": 0.05, "balance": 1.1}, {"projection": "orthogonal"}, {"projection": "sobol"}]
)
def test_estimates_are_unbiased_within_three_standard_deviations(function, split, options):
    if function == "relu":
        options = {key: value for key, value in options.items() if key == "projection"}
    features = RandomFeatures(function, 6, 6000, seed=1, split=split, **options)
    error = features.phi(x) @ features.psi(W, b).mT - features.kernel(x, W, b)
    assert (error.square() / features.variance(x, W, b)).mean().sqrt() <= 3


def test_kernels_are_the_functions_themselves():
    z = x @ W.mT + b
    for function, value in {
        "exp": z.exp(),
        "sin": z.sin(),
        "cos": z.cos(),
        "gaussian": torch.exp(-z * z / 2),
        "tanh": z.tanh(),
        "gelu": z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    }.items():
        torch.testing.assert_close(RandomFeatures(function, 6, 4).kernel(x, W, b), value)


def test_the_linear_part_of_gelu_is_exact():
    small, weights = points(6, 1e-3), points(6, 1e-3, name="w")
    features = RandomFeatures("gelu", 6, 8)
    estimate = features.phi(small) @ features.psi(weights).mT
    # z/2 is about 1e-6: what is left is z^2 / sqrt(2 pi), and the estimate's error of that size
    torch.testing.assert_close(estimate, small @ weights.mT / 2, rtol=0, atol=1e-10)
    alone = replace(features, count=1).phi(small)
    assert torch.equal(alone[:, -7:-1], small) and bool((alone[:, -1] == 1).all())


@pytest.mark.parametrize("bias", [False, True])
def test_relu_features_are_rectified_projections(bias):
    features = RandomFeatures("relu", 6, 5, threshold=-0.3, bias=bias)
    G = features.draws().rows
    assert G.shape == (5, 7 if bias else 6)
    ones = torch.ones(3, 1, dtype=torch.float64)
    with_one, with_b = (torch.cat([x, ones], 1), torch.cat([W, b[:, None]], 1)) if bias else (x, W)
    torch.testing.assert_close(features.phi(x), (with_one @ G.mT).clamp(min=-0.3) / math.sqrt(5))
    torch.testing.assert_close(features.psi(W, b if bias else None), (with_b @ G.mT).clamp(min=-0.3) / math.sqrt(5))


@given(
    function=st.sampled_from(["exp", "sin", "gelu", "relu"]),
    leading=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_leading_dimensions_and_dtype(function, leading, dtype):
    features = RandomFeatures(function, 3, 4, seed=5)
    z = torch.randn(*leading, 3, generator=generator(0, "z"), dtype=torch.float64).to(dtype)
    phi = features.phi(z)
    assert phi.shape == (*leading, features.width) and phi.dtype == dtype
    flat = features.phi(z.reshape(-1, 3).double()).reshape(phi.shape)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(phi.double(), flat, rtol=tolerance, atol=tolerance)


def test_no_weights_have_no_features():
    for function in ("gelu", "relu"):
        features = RandomFeatures(function, 3, 4)
        assert features.psi(torch.empty(0, 3), torch.empty(0)).shape == (0, features.width)


@pytest.mark.parametrize("function", ["gelu", "relu", "exp"])
def test_a_large_batch_in_pieces_is_the_same(function, monkeypatch):
    features = RandomFeatures(function, 6, 7)
    whole = features.phi(x.repeat(9, 1))
    monkeypatch.setattr("dtheta.core.features.random_features._PIECE", 2 * features.width)
    torch.testing.assert_close(features.phi(x.repeat(9, 1)), whole, rtol=1e-13, atol=1e-13)
    tracked = x.repeat(9, 1).requires_grad_()
    torch.testing.assert_close(features.phi(tracked), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("function", "split"), PAIRS)
def test_phi_has_the_right_gradient(function, split):
    features = RandomFeatures(function, 6, 2, split=split, A=0.02)
    assert torch.autograd.gradcheck(lambda z: features.phi(z), x[:2].clone().requires_grad_())


@given(seed=st.integers(0, 2**40), projection=st.sampled_from(["gaussian", "orthogonal", "sobol"]))
def test_draws_are_regenerated_from_seed_and_name(seed, projection):
    features = RandomFeatures("gelu", 3, 5, seed=seed, projection=projection)
    first = features.draws()
    torch.manual_seed(1)
    torch.randn(7)
    assert all(torch.equal(p, q) for p, q in zip(first, replace(features).draws(), strict=True))
    for other in (replace(features, seed=seed + 1), replace(features, name="others")):
        assert not torch.equal(first.rows, other.draws().rows)
        assert not torch.equal(first.frequencies, other.draws().frequencies)


def test_drawing_leaves_the_global_generator_and_default_device_alone():
    state = torch.get_rng_state()
    with torch.device("meta"):
        for projection in ("gaussian", "orthogonal", "sobol"):
            assert RandomFeatures("exp", 3, 5, projection=projection).draws().rows.device.type == "cpu"
    assert torch.equal(state, torch.get_rng_state())


def test_given_draws_are_used_in_every_dtype():
    features = RandomFeatures("tanh", 6, 9)
    draws = features.draws()
    assert torch.equal(features.phi(x, draws), features.phi(x))
    assert torch.equal(features.psi(W, b, draws), features.psi(W, b))
    single = Draws(*(part.float() for part in draws))
    assert torch.equal(features.phi(x.float(), single), features.phi(x.float()))
    torch.testing.assert_close(features.phi(x.float()), features.phi(x).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", ["sin", "exp", "relu", "gelu"])
def test_features_of_a_projection_are_those_of_its_inputs(function):
    features = RandomFeatures(function, 6, 9, antithetic=True)
    draws = features.draws()
    projected = x @ draws.rows[:, :6].mT + (draws.rows[:, 6] if function == "relu" else 0)
    norms = None if function == "relu" else x.square().sum(1, keepdim=True)
    found = features.phi_projected(projected, norms, draws)
    torch.testing.assert_close(found, features.phi(x)[:, : found.shape[1]])
    empty = features.phi_projected(projected[:0], None if norms is None else norms[:0], draws)
    assert empty.shape == (0, found.shape[1])


def test_width_counts_the_features():
    widths = {("exp", "symmetric"): 4, ("sin", "symmetric"): 8, ("sin", "x-trig"): 8, ("sin", "w-trig"): 4}
    for (function, split), width in widths.items():
        for both in (False, True):
            assert RandomFeatures(function, 3, 4, split=split, antithetic=both).width == width * (1 + both)
    assert RandomFeatures("gelu", 3, 4).width == 4 * 4 + 3 + 1
    assert RandomFeatures("relu", 3, 4).width == 4
