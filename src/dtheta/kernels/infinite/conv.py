"""Convolution: the covariance of two places becomes its mean over a window that shifts both alike.

    nngp(s, t) <- W_std^2 mean_d nngp(s + d, t + d) + b_std^2
    ntk(s, t)  <- W_std^2 mean_d ntk(s + d, t + d) + nngp(s, t)         (nngp: the new one)

(Arora et al. 2019; Garriga-Alonso et al. 2019.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.infinite.dense import affine
from dtheta.kernels.infinite.kernel import Kernel
from dtheta.kernels.infinite.layer import Draw, Layer, Shape, Units
from dtheta.kernels.infinite.weights import check_std, weights
from dtheta.kernels.infinite.windows import Padding, around, check_sizes, flatten, sizes, steps, unflatten, window_mean

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution over the places, as torch's.

        y[s] = W_std / sqrt(channels * window) * sum_d W_d x[s * stride + d] + b_std * b

    Attributes:
        window: Its size along each axis of places; a number stands for the same along all.
        strides: Steps of the window along each axis.
        padding: "same" (zeros, (window - 1) // 2 of them in front, for any stride), "circular" (the other end) or
            "valid" (none).
        W_std: Standard deviation of the weights, times sqrt(channels * window).
        b_std: Of the biases; 0 for none.

    Raises:
        ConfigError: If a setting cannot be meant.
    """

    window: int | tuple[int, ...] = 3
    strides: int | tuple[int, ...] = 1
    padding: Padding = "same"
    W_std: float = 1.0
    b_std: float = 0.0
    weighted = True

    def __post_init__(self) -> None:
        check_std(self.W_std, self.b_std, "Conv")
        check_sizes(self.window, "window")
        check_sizes(self.strides, "strides")
        if self.padding not in get_args(Padding):
            raise ConfigError(f"padding={self.padding!r}; expected one of {', '.join(get_args(Padding))}")

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        window, strides, after = self._sizes(kernel.places)

        def averaged(values: Tensor, pairs: int) -> Tensor:
            values = unflatten(values, pairs, kernel)
            for axis, (size, step) in enumerate(zip(window, strides, strict=True)):
                axes = [pairs + axis] + ([pairs + len(window) + axis] if kernel.full else [])
                values = window_mean(values, axes, size, step, self.padding)
            return flatten(values, pairs, kernel, after)

        return affine(kernel.mapped(averaged, places=after), self.W_std, self.b_std)

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        window, strides, after = self._sizes(inputs[1:])
        if len(window) not in _CONVOLUTIONS:
            raise ShapeMismatch(f"Conv of a finite network takes 1 to 3 axes of places; the inputs have {len(window)}")
        conv = _CONVOLUTIONS[len(window)](inputs[0], units.last, window, strides, bias=self.b_std != 0, device="meta")
        module = weights(conv, inputs[0] * math.prod(window), self.W_std, self.b_std, draw)
        return nn.Sequential(Pad(window, self.padding), module), (units.last, *after)

    def _sizes(self, places: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return window, strides, and the places behind."""
        window, strides = sizes(self.window, places, "window"), sizes(self.strides, places, "strides")
        padded = places if self.padding == "valid" else tuple(n + k - 1 for n, k in zip(places, window, strict=True))
        return window, strides, steps(padded, window, strides, self)


class Pad(nn.Module):
    """Zeros, or the other end, around the places, as `Conv` takes them."""

    def __init__(self, window: tuple[int, ...], padding: Padding) -> None:
        super().__init__()
        self.sizes = [size for k in reversed(window) for size in around(k, padding)]
        self.mode = "circular" if padding == "circular" else "constant"

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, channels, *places) with padded places."""
        return F.pad(x, self.sizes, mode=self.mode) if any(self.sizes) else x
