"""Synthetic analyses: errors of the wanted size, shaped by the flow, keyed, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.data.flows.analyses import synthetic_analyses
from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.errors import ConfigError, ShapeMismatch

FLOW = QuasiGeostrophic(truncation=10)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return FLOW.run(FLOW.spin_up(3, steps=20), 10).transpose(0, 1)


def rms(field: Tensor) -> Tensor:
    return FLOW.grid.mean(field.square()).sqrt()


def test_errors_have_the_wanted_size_in_the_first_channel(truth: Tensor) -> None:
    errors = synthetic_analyses(FLOW, truth, [6, 9], error=9.0, cycles=4) - truth[:, [6, 9]]
    torch.testing.assert_close(rms(errors[:, :, 0]), torch.full((3, 2), 9.0), rtol=1e-3, atol=0)
    lower = rms(errors[:, :, 1])
    assert ((lower > 0.5) & (lower < 9)).all()


def test_the_flow_shapes_them(truth: Tensor) -> None:
    """One cycle is one twin run; more leave less of the noise in the small scales."""
    once = synthetic_analyses(FLOW, truth, [8], cycles=1)[:, 0] - truth[:, 8]
    often = synthetic_analyses(FLOW, truth, [8], cycles=8)[:, 0] - truth[:, 8]
    scalar = FLOW.balance.scalar
    power = [scalar.power_spectrum(scalar.analyze(e[:, 0])).mean(0) for e in (once, often)]
    share = [p[8:].sum() / p.sum() for p in power]
    assert share[1] < share[0]


def test_they_are_keyed_by_trajectory_and_time(truth: Tensor) -> None:
    both = synthetic_analyses(FLOW, truth, [6, 9], cycles=4)
    alone = synthetic_analyses(FLOW, truth[:2], [9], cycles=4)
    torch.testing.assert_close(both[:2, 1:], alone, rtol=1e-4, atol=0.05)
    other = synthetic_analyses(FLOW, truth, [6, 9], cycles=4, seed=1)
    assert rms(both[:, 0, 0] - other[:, 0, 0]).min() > 2


def test_on_a_ring_the_error_is_that_of_the_whole_state_and_the_flow_shapes_it() -> None:
    """The cycles of the formula in the module, written out."""
    flow = Lorenz96(variables=8)
    states = flow.run(flow.spin_up(2), 6).transpose(0, 1)
    found = synthetic_analyses(flow, states, [4, 6], error=0.3, cycles=4, seed=5) - states[:, [4, 6]]
    torch.testing.assert_close(found.square().mean(2).sqrt(), torch.full((2, 2), 0.3), rtol=1e-4, atol=0)
    for member in range(2):
        d = torch.randn(8, generator=generator(5, "flows/analyses/6", member))
        for x in states[member, 2:6]:
            d = d * (0.3 / d.square().mean().sqrt())
            d = flow.step(x + d) - flow.step(x)
        expected = d * (0.3 / d.square().mean().sqrt())
        torch.testing.assert_close(found[member, 1], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ShapeMismatch, match=r"expected \(M, T, ...\)"):
        synthetic_analyses(flow, states[0], [4])


@pytest.mark.parametrize(
    ("times", "more", "message"),
    [
        ([3], {"cycles": 4}, r"time 3 of an analysis must lie in \[4, 11\)"),
        ([11], {"cycles": 4}, "time 11"),
        ([6], {"cycles": 0}, "cycles is 0"),
        ([6], {"error": -1.0, "cycles": 4}, "error must be positive"),
    ],
)
def test_refusals(truth: Tensor, times: list[int], more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthetic_analyses(FLOW, truth, times, **more)


def test_another_grid_is_refused(truth: Tensor) -> None:
    with pytest.raises(ShapeMismatch, match="truth has the shape"):
        synthetic_analyses(FLOW, truth[..., :-1], [6])
    with pytest.raises(ShapeMismatch, match="expected \\(M, T, C, H, W\\)"):
        synthetic_analyses(FLOW, truth[0], [6])
