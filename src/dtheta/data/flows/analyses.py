"""Synthetic analyses: what a weather service would know of a truth; the truth plus an error that looks like one.

    d    <- noise, scaled to the wanted size
    d    <- step(x + d) - step(x), scaled to it again          so many cycles up to the time of the analysis
    analysis = x + d

The flow itself shapes the error: what decays is gone, what grows is there, as in an assimilation that has fought errors
of all kinds for days. A forecast from the bare truth would flatter every forecast, and make every perturbation of the
start look too large.

Shape legend: M trajectories, T times, K analyses of each, ... the state: (C, H, W) on the sphere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import positive, whole
from dtheta.core.seeds import generator, normal
from dtheta.core.sphere import SphericalTransform
from dtheta.errors import ConfigError, ShapeMismatch


def synthetic_analyses(
    flow: Any, truth: Tensor, times: Sequence[int], error: float = 9.0, cycles: int = 20, seed: int = 0
) -> Tensor:
    """Return analyses (M, K, ...) of trajectories at some of their times.

    Args:
        flow: the flow of the trajectories, with ``step``; one on the sphere has ``grid`` and ``truncation``, too.
        truth: trajectories (M, T, ...), a step apart.
        times: K indices into T, each ``cycles`` or more.
        error: root mean square over the sphere of the error of channel 0, in its unit; the other channels have what
            the flow gives them along with it. 9 m is about a fourth of what persistence loses in six hours. Elsewhere,
            as on the ring of Lorenz-96, that over the whole state.
        cycles: steps that the error is grown and scaled back.
        seed: of the noise that it begins with, keyed by trajectory and time.

    Raises:
        ShapeMismatch: trajectories of another grid.
        ConfigError: a time too early or outside the trajectories, or a number that cannot be meant.
    """
    grid = getattr(flow, "grid", None)
    if grid is not None:
        grid.check(truth, "truth")
    expected = "(M, T, ...)" if grid is None else "(M, T, C, H, W)"
    if truth.ndim < 3 or (grid is not None and truth.ndim != 5):
        raise ShapeMismatch(f"truth has the shape {tuple(truth.shape)}; expected {expected}")
    size, cycles = positive(error, "error"), whole(cycles, "cycles", least=1)
    for time in times:
        if not cycles <= whole(time, "a time") < truth.shape[1]:
            raise ConfigError(
                f"time {time} of an analysis must lie in [{cycles}, {truth.shape[1]}): it needs {cycles} steps before"
            )
    found = [truth[:, time] + _cycled(flow, truth, time, size, cycles, seed) for time in times]
    return torch.stack(found, 1)


def _cycled(flow: Any, truth: Tensor, time: int, size: float, cycles: int, seed: int) -> Tensor:
    """Return the errors (M, ...) at one time."""
    members = len(truth)
    error = torch.stack([_noise(flow, truth[member, 0], seed, member, time) for member in range(members)])
    for begin in range(time - cycles, time):
        state = truth[:, begin]
        after = flow.step(torch.cat((state, state + _scaled(flow, error, size))))
        error = after[members:] - after[:members]
    return _scaled(flow, error, size)


def _scaled(flow: Any, error: Tensor, size: float) -> Tensor:
    grid = getattr(flow, "grid", None)
    squares = error.flatten(1).square().mean(1) if grid is None else grid.mean(error[:, 0].square())
    return error * (size / squares.sqrt()).reshape(-1, *[1] * (error.ndim - 1))


def _noise(flow: Any, like: Tensor, seed: int, member: int, time: int) -> Tensor:
    """Return an error (...) to begin with, white: independent in all elements, or on the sphere as follows.

    In channel 0, of equal variance at every degree and order above l = 0, but half of it at order 0. The cycles that
    follow forget what it looked like.
    """
    draws = generator(seed, f"flows/analyses/{time}", member)
    if getattr(flow, "grid", None) is None:
        return normal(like.shape, 1.0, draws).to(like.dtype)
    transform, error = SphericalTransform(flow.grid, flow.truncation), torch.zeros_like(like)
    coefficients = torch.randn(transform.shape, dtype=torch.complex64, generator=draws)
    coefficients[0] = 0
    error[0] = transform.synthesize(coefficients)
    return error
