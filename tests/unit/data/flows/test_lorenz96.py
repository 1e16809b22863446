"""Lorenz-96: the equation, its conservation law, the order of the scheme, keyed starts; Lyapunov exponents."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.data.flows.lyapunov import lyapunov
from dtheta.errors import ConfigError, ShapeMismatch

FLOW = Lorenz96()


def test_the_tendency_is_the_equation_written_out() -> None:
    x = torch.randn(7, dtype=torch.float64)
    small = Lorenz96(variables=7, forcing=3.0)
    written = [(x[(k + 1) % 7] - x[k - 2]) * x[k - 1] - x[k] + 3.0 for k in range(7)]
    assert torch.allclose(small.tendency(x), torch.stack(written), atol=1e-14)


def test_the_products_conserve_the_sum_of_squares() -> None:
    x = torch.randn(5, 40, dtype=torch.float64)
    advection = FLOW.tendency(x) + x - FLOW.forcing
    assert torch.allclose((x * advection).sum(-1), torch.zeros(5, dtype=torch.float64), atol=1e-12)


def test_the_scheme_is_of_fourth_order() -> None:
    x = FLOW.spin_up(1, dtype=torch.float64)

    def after(steps: int) -> torch.Tensor:
        return Lorenz96(dt=0.2 / steps).run(x, steps)[-1]

    exact = after(256)
    ratio = float((after(8) - exact).abs().max() / (after(16) - exact).abs().max())
    assert math.log2(ratio) == pytest.approx(4, abs=0.3)


def test_the_climate_is_the_known_one() -> None:
    states = FLOW.run(FLOW.spin_up(64, seed=1), 400)[::20]
    assert float(states.mean()) == pytest.approx(2.34, abs=0.05)
    assert float(states.std()) == pytest.approx(3.64, abs=0.05)


def test_the_first_states_do_not_depend_on_how_many_follow() -> None:
    assert torch.allclose(FLOW.spin_up(2, steps=0), FLOW.spin_up(5, steps=0)[:2], atol=0)
    assert not torch.equal(FLOW.spin_up(1, seed=0, steps=0), FLOW.spin_up(1, seed=1, steps=0))


def test_the_tangent_is_the_derivative_of_the_step() -> None:
    x, d = torch.randn(40, dtype=torch.float64), torch.randn(3, 40, dtype=torch.float64)
    after, moved = FLOW.tangent(x, d)
    assert torch.equal(after, FLOW.step(x))
    jacobian = torch.autograd.functional.jacobian(FLOW.step, x)
    assert torch.allclose(moved, d @ jacobian.T, atol=1e-12)


def test_exponents_are_the_known_ones_and_sum_to_the_divergence() -> None:
    """13 growing directions, the largest at 1.69 a time unit; the flow contracts volumes at the rate K."""
    x = FLOW.spin_up(1, dtype=torch.float64)[0]
    found = lyapunov(FLOW.tangent, x, 2000, dt=FLOW.dt)
    assert float(found.exponents[0]) == pytest.approx(1.69, abs=0.1)
    assert found.growing in (12, 13, 14)
    assert float(found.exponents.sum()) == pytest.approx(-40, abs=0.1)
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(40, dtype=torch.float64), atol=1e-10)


def test_the_first_vector_is_where_every_small_perturbation_turns() -> None:
    x = FLOW.spin_up(1, dtype=torch.float64)[0]
    found = lyapunov(FLOW.tangent, x, 800, count=3, dt=FLOW.dt)
    apart, at = x + 1e-6 * torch.randn(40, dtype=torch.float64), x
    for _ in range(800):
        at, apart = FLOW.step(at), FLOW.step(apart)
        apart = at + 1e-6 * torch.nn.functional.normalize(apart - at, dim=0)
    assert abs(float(torch.cosine_similarity(apart - at, found.vectors[:, 0], dim=0))) > 0.999


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="variables is 3"):
        Lorenz96(variables=3)
    with pytest.raises(ConfigError, match="positive number of time units"):
        Lorenz96(dt=0)
    with pytest.raises(ShapeMismatch, match=r"\(\.\.\., 40\)"):
        FLOW.step(torch.zeros(2, 39))
    with pytest.raises(ShapeMismatch, match="one vector"):
        lyapunov(FLOW.tangent, torch.zeros(1, 40), 1)
    with pytest.raises(ConfigError, match="as many directions at most"):
        lyapunov(FLOW.tangent, torch.zeros(40), 1, count=41)
