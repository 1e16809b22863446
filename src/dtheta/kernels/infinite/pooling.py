"""The two ends of a network with places, and pooling on the way.

AvgPool         the mean of the covariance over the windows of both places, each on its own
GlobalAvgPool   its mean over all pairs of places
Flatten         its mean over the places that both examples have in common
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtheta.errors import ShapeMismatch
from dtheta.kernels.infinite.kernel import Kernel
from dtheta.kernels.infinite.layer import Draw, Layer, Shape, Units
from dtheta.kernels.infinite.windows import check_sizes, flatten, require_places, sizes, steps, unflatten, window_mean

_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


@dataclass(frozen=True)
class AvgPool(Layer):
    """The mean over windows of places.

    Attributes:
        window: Its size along each axis of places; a number stands for the same along all.
        strides: Steps of the window; None for windows side by side. Places that fill no window are left out.

    Raises:
        ConfigError: If a setting cannot be meant.
    """

    window: int | tuple[int, ...] = 2
    strides: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_sizes(self.window, "window")
        if self.strides is not None:
            check_sizes(self.strides, "strides")

    def full_before(self, after: bool) -> bool:
        """Tell that pairs of different places are needed."""
        return True

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        window, strides, after = self._sizes(kernel.places)

        def averaged(values: Tensor, pairs: int) -> Tensor:
            values = unflatten(values, pairs, kernel)
            for axis, (size, step) in enumerate(zip(window * 2, strides * 2, strict=True)):
                values = window_mean(values, [pairs + axis], size, step, "valid")
            return flatten(values, pairs, kernel, after)

        return kernel.mapped(averaged, places=after)

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        window, strides, after = self._sizes(inputs[1:])
        if len(window) not in _POOLS:
            raise ShapeMismatch(
                f"AvgPool of a finite network takes 1 to 3 axes of places; the inputs have {len(window)}"
            )
        return _POOLS[len(window)](window, strides), (inputs[0], *after)

    def _sizes(self, places: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        window = sizes(self.window, places, "window")
        strides = window if self.strides is None else sizes(self.strides, places, "strides")
        return window, strides, steps(places, window, strides, self)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all places."""

    def full_before(self, after: bool) -> bool:
        """Tell that pairs of different places are needed."""
        return True

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        require_places(kernel.places, self)
        return kernel.mapped(lambda values, pairs: values.mean((-2, -1)), places=(), full=False)

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        require_places(inputs[1:], self)
        return GlobalMean(), inputs[:1]


@dataclass(frozen=True)
class Flatten(Layer):
    """All places of all channels as one vector."""

    def full_before(self, after: bool) -> bool:
        """Tell that they are not needed."""
        return False

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        require_places(kernel.places, self)

        def averaged(values: Tensor, pairs: int) -> Tensor:
            return (torch.diagonal(values, 0, -2, -1) if kernel.full else values).mean(-1)

        alike = kernel.gaussian and math.prod(kernel.places) == 1  # else units of different variances are one vector
        return kernel.mapped(averaged, places=(), full=False, gaussian=alike)

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        require_places(inputs[1:], self)
        return nn.Flatten(), (math.prod(inputs),)


class GlobalMean(nn.Module):
    """The mean over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of ``x`` (N, channels, *places), (N, channels)."""
        return x.flatten(2).mean(2)
