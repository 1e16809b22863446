"""Laws of inserted networks: nothing moves before training, and the algebra of SNNK is that of what is added."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.houlsby import Houlsby
from dtheta.adapt.snnk import SNNK
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator
from tests.shaken import shaken

WIDTH = 6
X = torch.randn(9, 5, generator=generator(0, "x"), dtype=torch.float64)
MODEL = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)).double().requires_grad_(False)
PROJECTIONS, SCALES = st.sampled_from(["gaussian", "orthogonal", "sobol"]), st.sampled_from([1.0, 0.25])
COMMON = (st.integers(1, 9), st.none() | st.integers(1, 4))
SNNKS = st.builds(SNNK, *COMMON, st.just("relu"), PROJECTIONS, st.sampled_from([0.0, -0.5]), SCALES) | st.builds(
    SNNK, *COMMON, st.sampled_from(["gelu", "sin", "gaussian"]), PROJECTIONS, st.just(0.0), SCALES
)
METHODS: Any = SNNKS | st.builds(Houlsby, st.integers(1, 5), st.sampled_from(["gelu", "relu", "tanh", "silu"]))
SEEDS, FACTORS = st.integers(0, 3), st.floats(-3, 3)


def moved(method: Any, seed: int, draw: int) -> Delta:
    adapter = shaken(attach(MODEL, method, "*", seed=seed), seed=draw)
    delta = adapter.delta()
    adapter.detach()
    return delta


def added(delta: Delta) -> torch.Tensor:
    """Return what the network behind the first layer adds there."""
    adapter = attach(MODEL, delta)
    found = MODEL[0](X) - nn.functional.linear(X, MODEL[0].weight, MODEL[0].bias)  # type: ignore[arg-type]
    adapter.detach()
    return found


@settings(max_examples=30)
@given(METHODS, SEEDS)
def test_nothing_moves_before_training_and_nothing_is_left_behind(method: Any, seed: int) -> None:
    before = MODEL(X)
    adapter = attach(MODEL, method, "*", seed=seed)
    assert torch.equal(adapter(X), before)
    delta = adapter.delta()
    adapter.detach()
    again = attach(MODEL, delta)
    assert torch.equal(again(X), before)
    assert again.delta() == delta
    again.detach()
    assert torch.equal(MODEL(X), before)
    assert not any(m._forward_hooks for m in MODEL.modules())


@settings(max_examples=40)
@given(SNNKS, SNNKS, SEEDS, SEEDS, FACTORS, FACTORS)
def test_a_combination_adds_the_combination_of_what_each_adds(
    first: SNNK, second: SNNK, seed: int, other: int, a: float, b: float
) -> None:
    one, two = moved(first, seed, 1), moved(second, other, 2)
    torch.testing.assert_close(added(a * one + b * two), a * added(one) + b * added(two), rtol=1e-9, atol=1e-9)
