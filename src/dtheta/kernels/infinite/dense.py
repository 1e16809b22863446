"""Dense: weights from every channel to every unit, shared by all places.

    nngp <- W_std^2 nngp + b_std^2          ntk <- W_std^2 ntk + nngp (the new one)

(Jacot, Gabriel and Hongler 2018, Theorem 1, where W_std = 1 and b_std is their beta.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.kernels.infinite.kernel import Kernel
from dtheta.kernels.infinite.layer import Draw, Layer, Serial, Shape, Units, serial
from dtheta.kernels.infinite.weights import check_std, weights


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer.

    Attributes:
        W_std: Standard deviation of the weights, times sqrt(inputs).
        b_std: Of the biases; 0 for none.

    Raises:
        ConfigError: If ``W_std`` is not above 0, or ``b_std`` is negative.
    """

    W_std: float = 1.0
    b_std: float = 0.0
    weighted = True

    def __post_init__(self) -> None:
        check_std(self.W_std, self.b_std, "Dense")

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        return affine(kernel, self.W_std, self.b_std)

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        linear = nn.Linear(inputs[0], units.last, bias=self.b_std != 0, device="meta")
        module = weights(linear, inputs[0], self.W_std, self.b_std, draw)
        return (module if len(inputs) == 1 else ChannelsLast(module)), (units.last, *inputs[1:])


class ChannelsLast(nn.Module):
    """A module that works on the last axis, for inputs (N, channels, *places)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return ``module`` of the channels of each place."""
        return self.module(x.movedim(1, -1)).movedim(-1, 1)


def affine(kernel: Kernel, W_std: float, b_std: float) -> Kernel:
    """Return the kernel behind fresh weights and biases of given standard deviations."""

    def moved(values: Tensor) -> Tensor:
        scaled = values * W_std**2 if W_std != 1 else values
        return scaled + b_std**2 if b_std else scaled

    nngp = moved(kernel.nngp)
    ntk = None if kernel.ntk is None else nngp.add(kernel.ntk, alpha=W_std**2)
    return replace(kernel, nngp=nngp, ntk=ntk, first=moved(kernel.first), second=moved(kernel.second), gaussian=True)


def fully_connected(depth: int, activation: Layer, W_std: float = 1.0, b_std: float = 0.0) -> Serial:
    """Return ``depth`` layers Dense with an activation between every two: L = depth, beta = b_std of the NTK paper.

    Raises:
        ConfigError: If ``depth`` is no whole number of 1 or more.
    """
    dense = Dense(W_std, b_std)
    return serial(dense, *(layer for _ in range(whole(depth, "depth", 1) - 1) for layer in (activation, dense)))
