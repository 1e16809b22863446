"""Duals of activations: closed forms and series against quadrature, and their behavior at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.errors import ConfigError, NonFinite, NotConverged
from dtheta.kernels.infinite import (
    Abs,
    ARelu,
    Cos,
    Elementwise,
    Erf,
    Exp,
    Gaussian,
    Gelu,
    LeakyRelu,
    Relu,
    SigmoidLike,
    Sign,
    Sin,
)
from dtheta.kernels.infinite.activation import Activation
from dtheta.kernels.infinite.hermite import slope_of
from tests.unit.kernels.infinite.plain import homogeneous_dual, label, smooth_dual

SMOOTH = [
    Erf(), Erf(0.7, 2.0, 0.3), SigmoidLike(), Gelu(), Sin(1.3, 0.4), Cos(0.8), Exp(0.6), Gaussian(), Gaussian(0.2),
    Elementwise(torch.tanh, 1e-10), Elementwise(torch.sigmoid, 1e-10), Elementwise(F.silu, 1e-10),
]  # fmt: skip
RECTIFIERS = [Relu(), LeakyRelu(0.2), Abs(), ARelu(0.5, 2.0)]
POINTS = [(0.5, 1.4, 0.3), (1.0, 1.0, -0.9), (0.9, 0.3, 0.0), (1.0, 1.0, 0.99), (0.8, 0.8, -0.6)]


def at(activation: Activation, p: float, q: float, c: float) -> tuple[float, float]:
    value, slope = activation.dual(*(torch.tensor([[v]], dtype=torch.float64) for v in (c, p, q)), True)
    assert slope is not None
    return value.item(), slope.item()


@pytest.mark.parametrize("activation", SMOOTH, ids=label)
@pytest.mark.parametrize(("p", "q", "c"), POINTS)
def test_a_smooth_dual_is_the_integral(activation, p, q, c):
    value, slope = at(activation, p, q, c)
    assert value == pytest.approx(smooth_dual(activation.function, p, q, c), abs=2e-9)
    assert slope == pytest.approx(smooth_dual(slope_of(activation.function), p, q, c), abs=2e-9)


@pytest.mark.parametrize("activation", RECTIFIERS, ids=label)
@pytest.mark.parametrize(("p", "q", "c"), POINTS)
def test_a_rectifiers_dual_is_the_integral(activation, p, q, c):
    value, slope = at(activation, p, q, c)
    assert value == pytest.approx(homogeneous_dual(activation.function, 1, p, q, c), abs=1e-12)
    assert slope == pytest.approx(homogeneous_dual(slope_of(activation.function), 0, p, q, c), abs=1e-12)


@pytest.mark.parametrize(("p", "q", "c"), POINTS)
def test_the_dual_of_the_sign_is_the_integral(p, q, c):
    value, slope = at(Sign(), p, q, c)
    assert value == pytest.approx(homogeneous_dual(torch.sign, 0, p, q, c), abs=1e-12)
    assert slope == 0


@pytest.mark.parametrize("activation", [*SMOOTH, *RECTIFIERS, Sign()], ids=label)
def test_an_example_with_itself_is_the_limit_of_pairs(activation):
    p = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    own, own_slope = activation.own(p, True)
    value, slope = activation.dual(p * (1 - 1e-13), p, p, True)
    torch.testing.assert_close(value, own, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, own_slope, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("activation", [*SMOOTH, *RECTIFIERS, Sign()], ids=label)
def test_a_variance_of_zero_gives_numbers(activation):
    p, q = torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([[0.0, 0.7]], dtype=torch.float64)
    value, slope = activation.dual(torch.zeros(1, 2, dtype=torch.float64), p, q, True)
    at_zero = activation.function(torch.zeros(1, dtype=torch.float64))
    assert value.isfinite().all() and slope.isfinite().all()
    assert value[0, 0].item() == pytest.approx((at_zero**2).item(), abs=1e-12)


def test_sigmoid_like_is_as_near_to_the_sigmoid_as_it_says():
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    worst = (SigmoidLike().function(x) - torch.sigmoid(x)).abs().max()
    assert 0.0095 < worst < 0.0098


def test_the_series_of_gelu_is_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(1, 40, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    c = (p.mT * q).sqrt() * (2 * torch.rand(40, 40, generator=generator, dtype=torch.float64) - 1)
    for mine, closed in zip(
        Elementwise(F.gelu, 1e-11).dual(c, p.mT, q, True), Gelu().dual(c, p.mT, q, True), strict=True
    ):
        assert mine is not None and closed is not None
        torch.testing.assert_close(mine, closed, rtol=0, atol=1e-9)


def test_the_series_says_when_it_cannot_be_accurate():
    p = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(NotConverged, match="tolerance"):
        Elementwise(torch.relu).dual(p * 0.5, p, p, False)
    value, _ = Elementwise(torch.relu, 1e-4).dual(p * 0.5, p, p, False)
    assert value.item() == pytest.approx(homogeneous_dual(torch.relu, 1, 1.0, 1.0, 0.5), abs=1e-4)
    with pytest.raises(NotConverged, match="Hermite"):
        Elementwise(lambda x: torch.sin(40 * x)).dual(p * 0.999999, p, p, False)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (torch.log, NonFinite, "finite everywhere"),
        (lambda x: x.sum(-1, keepdim=True), ConfigError, "shape"),
    ],
)
def test_a_function_that_is_no_activation_is_refused(function, error, message):
    p = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(error, match=message):
        Elementwise(function).dual(p * 0.5, p, p, True)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Elementwise("tanh"), ConfigError),  # pyright: ignore[reportArgumentType]
        (lambda: Elementwise(torch.tanh, 0.0), ConfigError),
        (lambda: Gaussian(-0.1), ConfigError),
        (lambda: Erf(math.nan), NonFinite),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make, error):
    with pytest.raises(error):
        make()


def test_float32_keeps_the_diagonal_exact():
    p = torch.tensor([3e-8, 0.1, 7.3, 1e6])
    value, slope = Relu().own(p, True)
    assert torch.equal(value, p / 2) and torch.equal(slope, torch.full_like(p, 0.5))


def reference_sine(x: Tensor) -> Tensor:
    return torch.sin(x)


def test_the_tolerance_is_kept():
    closed, _ = Sin().dual(*(torch.tensor([[v]], dtype=torch.float64) for v in (0.95, 1.0, 1.0)), False)
    for tolerance in (1e-2, 1e-4, 1e-8):
        points = (torch.tensor([[v]], dtype=torch.float64) for v in (0.95, 1.0, 1.0))
        found, _ = Elementwise(reference_sine, tolerance).dual(*points, False)
        assert abs(found - closed).item() <= tolerance


SCALES = [(1e-18, 1e-18), (1e-20, 1e-3), (1e-30, 1e30), (1e10, 1e10), (1e18, 1e-18), (1e30, 1e30)]


@pytest.mark.parametrize("activation", [*RECTIFIERS, Sign()], ids=label)
@pytest.mark.parametrize(("p", "q"), SCALES)
@pytest.mark.parametrize("rho", [-0.8, 0.3, 0.99])
def test_products_of_variances_leave_float32_where_the_variances_do_not(activation, p, q, rho):
    degree = 0 if activation == Sign() else 1
    c = torch.tensor([[rho * math.sqrt(p) * math.sqrt(q)]])
    value, slope = activation.dual(c, torch.tensor([[p]]), torch.tensor([[q]]), True)
    assert value.dtype == slope.dtype == torch.float32
    unit, unit_slope = at(activation, 1.0, 1.0, rho)
    assert value.item() == pytest.approx(unit * (math.sqrt(p) * math.sqrt(q)) ** degree, rel=1e-5)
    assert slope.item() == pytest.approx(unit_slope, rel=1e-5)


@pytest.mark.parametrize("activation", [Erf(), SigmoidLike(), Gelu(), Gaussian()], ids=label)
@pytest.mark.parametrize(("p", "q"), [(1e-30, 1e-30), (1e-3, 1e12), (1e6, 1e6), (3e9, 3e9), (1e12, 1e-12)])
def test_smooth_duals_at_extreme_variances_in_float32(activation, p, q):
    c = 0.7 * math.sqrt(p) * math.sqrt(q)
    value, slope = activation.dual(*(torch.tensor([[v]]) for v in (c, p, q)), True)
    wanted, wanted_slope = at(activation, p, q, c)
    assert value.item() == pytest.approx(wanted, rel=1e-4)
    assert slope.item() == pytest.approx(wanted_slope, rel=1e-4)


@pytest.mark.parametrize("activation", [Erf(), Gelu(), Gaussian()], ids=label)
@pytest.mark.parametrize("p", [1e4, 1e8, 1e17])
def test_equal_inputs_of_large_variance_keep_their_digits(activation, p):
    value, slope = activation.dual(*(torch.full((1, 1), p) for _ in range(3)), True)
    root = math.sqrt(1 + 4 * p)  # the factor 1 / sqrt(det) at c = p = q, whose 4 p^2 cancel
    if activation == Erf():
        assert value.item() == pytest.approx(2 / math.pi * math.asin(2 * p / (1 + 2 * p)), rel=1e-5)
        assert slope.item() == pytest.approx(4 / math.pi / root, rel=1e-5)
    elif activation == Gaussian():
        assert value.item() == pytest.approx(1 / math.sqrt(1 + 2 * p), rel=1e-5)
        assert slope.item() == pytest.approx(p / (1 + 2 * p) ** 1.5, rel=1e-5)
    else:
        assert value.item() == pytest.approx(p / 2, rel=1e-3 if p < 1e6 else 1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1e-12])
def test_the_series_of_small_inputs_in_float32_is_linear(scale):
    c, p, q = (torch.tensor([[v * scale]]) for v in (0.4, 1.0, 0.8))
    value, slope = Elementwise(torch.tanh, 1e-8).dual(c, p, q, True)
    assert slope is not None
    assert value.item() == pytest.approx(0.4 * scale, rel=1e-5)
    assert slope.item() == pytest.approx(1.0, rel=1e-5)


def test_the_sine_of_large_inputs_stays_bounded():
    p = torch.full((1, 1), 1e14)
    value, slope = Sin().dual(p * (1 + 1e-6), p, p, True)  # rounding made the covariance larger than the variances
    assert slope is not None
    assert value.item() == pytest.approx(0.5) and slope.item() == pytest.approx(0.5)
