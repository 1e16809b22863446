"""Synthetic analyses: what a weather service would know of a truth; the truth plus an error that looks like one.

    d    <- noise, scaled to the wanted size
    d    <- step(x + d) - step(x), scaled to it again          so many cycles up to the time of the analysis
    analysis = x + d

The flow itself shapes the error: what decays is gone, what grows is there, as in an assimilation that has fought errors
of all kinds for days. A forecast from the bare truth would flatter every forecast, and make every perturbation of the
start look too large.

Shape legend: M trajectories, T times, K analyses of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import positive, whole
from dtheta.core.seeds import generator
from dtheta.core.sphere import SphericalTransform
from dtheta.errors import ConfigError, ShapeMismatch


def synthetic_analyses(
    flow: Any, truth: Tensor, times: Sequence[int], error: float = 9.0, cycles: int = 20, seed: int = 0
) -> Tensor:
    """Return analyses (M, K, C, H, W) of trajectories at some of their times.

    Args:
        flow: the flow of the trajectories, with ``step``, ``grid`` and ``truncation``.
        truth: trajectories (M, T, C, H, W), a step apart.
        times: K indices into T, each ``cycles`` or more.
        error: root mean square over the sphere of the error of channel 0, in its unit; the other channels have what
            the flow gives them along with it. 9 m is about a fourth of what persistence loses in six hours.
        cycles: steps that the error is grown and scaled back.
        seed: of the noise that it begins with, keyed by trajectory and time.

    Raises:
        ShapeMismatch: trajectories of another grid.
        ConfigError: a time too early or outside the trajectories, or a number that cannot be meant.
    """
    flow.grid.check(truth, "truth")
    if truth.ndim != 5:
        raise ShapeMismatch(f"truth has the shape {tuple(truth.shape)}; expected (M, T, C, H, W)")
    size, cycles = positive(error, "error"), whole(cycles, "cycles", least=1)
    for time in times:
        if not cycles <= whole(time, "a time") < truth.shape[1]:
            raise ConfigError(
                f"time {time} of an analysis must lie in [{cycles}, {truth.shape[1]}): it needs {cycles} steps before"
            )
    found = [truth[:, time] + _cycled(flow, truth, time, size, cycles, seed) for time in times]
    return torch.stack(found, 1)


def _cycled(flow: Any, truth: Tensor, time: int, size: float, cycles: int, seed: int) -> Tensor:
    """Return the errors (M, C, H, W) at one time."""
    members = len(truth)
    error = torch.zeros_like(truth[:, 0])
    error[:, 0] = torch.stack([_noise(flow, seed, member, time) for member in range(members)])
    for begin in range(time - cycles, time):
        state = truth[:, begin]
        after = flow.step(torch.cat((state, state + _scaled(flow, error, size))))
        error = after[members:] - after[:members]
    return _scaled(flow, error, size)


def _scaled(flow: Any, error: Tensor, size: float) -> Tensor:
    rms = flow.grid.mean(error[:, 0].square()).sqrt()
    return error * (size / rms)[:, None, None, None]


def _noise(flow: Any, seed: int, member: int, time: int) -> Tensor:
    """Return a field (H, W) of equal variance at every degree and order above l = 0, but half of it at order 0.

    The cycles that follow forget what it looked like.
    """
    transform = SphericalTransform(flow.grid, flow.truncation)
    draws = generator(seed, f"flows/analyses/{time}", member)
    coefficients = torch.randn(transform.shape, dtype=torch.complex64, generator=draws)
    coefficients[0] = 0
    return transform.synthesize(coefficients)
