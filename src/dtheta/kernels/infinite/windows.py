"""Windows over places, along one axis after the other: a window is a product of intervals."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ShapeMismatch
from dtheta.kernels.infinite.kernel import Kernel
from dtheta.kernels.infinite.layer import Layer

Padding = Literal["same", "valid", "circular"]


def around(window: int, padding: Padding) -> tuple[int, int]:
    """Return how many places are added in front and behind."""
    return (0, 0) if padding == "valid" else ((window - 1) // 2, window // 2)


def window_mean(values: Tensor, axes: list[int], window: int, step: int, padding: Padding) -> Tensor:
    """Return the mean over a window that moves along all of ``axes`` at once."""
    for axis in axes:
        values = _padded(values, axis, *around(window, padding), padding)
    count = (values.shape[axes[0]] - window) // step + 1
    total: Tensor | None = None
    for d in range(window):
        part = values
        for axis in axes:
            part = part.narrow(axis, d, step * (count - 1) + 1)
            part = part[(slice(None),) * axis + (slice(None, None, step),)]
        total = part.clone() if total is None else total.add_(part)
    assert total is not None
    return total.div_(window)


def _padded(values: Tensor, axis: int, before: int, behind: int, padding: Padding) -> Tensor:
    if not before and not behind:
        return values
    size = values.shape[axis]
    if padding == "circular":
        index = torch.arange(-before, size + behind, device=values.device) % size
        return values.index_select(axis, index)
    shape = list(values.shape)
    shape[axis] = size + before + behind
    padded = values.new_zeros(shape)
    padded.narrow(axis, before, size).copy_(values)
    return padded


def unflatten(values: Tensor, pairs: int, kernel: Kernel) -> Tensor:
    """Return covariances with the axes of places apart; ``pairs`` leading axes are of examples."""
    return values.reshape(*values.shape[:pairs], *kernel.places * (2 if kernel.full else 1))


def flatten(values: Tensor, pairs: int, kernel: Kernel, places: tuple[int, ...]) -> Tensor:
    """Return covariances with the axes of ``places`` as one, or as one for each side."""
    return values.reshape(*values.shape[:pairs], *(math.prod(places),) * (2 if kernel.full else 1))


def check_sizes(value: int | tuple[int, ...], what: str) -> None:
    """Check that sizes are whole numbers of 1 or more."""
    for size in value if isinstance(value, tuple) else (value,):
        whole(size, what, 1)


def require_places(places: tuple[int, ...], layer: Layer) -> None:
    """Raise if there are no places."""
    if not places:
        raise ShapeMismatch(f"{layer} stands on plain vectors; expected inputs (N, channels, *places)")


def sizes(value: int | tuple[int, ...], places: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Return one size for each axis of places."""
    if not places:
        raise ShapeMismatch(f"a {what} of {value} meets plain vectors; expected inputs (N, channels, *places)")
    found = value if isinstance(value, tuple) else (value,) * len(places)
    if len(found) != len(places):
        raise ShapeMismatch(f"{what} {value} has {len(found)} axes; expected {len(places)}, as the places {places}")
    return found


def steps(places: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], layer: Layer) -> tuple[int, ...]:
    """Return how many windows fit along each axis."""
    after = tuple((n - k) // s + 1 for n, k, s in zip(places, window, strides, strict=True))
    if min(after) < 1:
        raise ShapeMismatch(f"{layer} has a window {window} larger than the places {places}")
    return after
