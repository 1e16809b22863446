"""LayerNorm and Dropout of infinitely wide layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dtheta.core.arguments import number
from dtheta.errors import ConfigError
from dtheta.kernels.infinite.dense import ChannelsLast
from dtheta.kernels.infinite.kernel import Kernel, own_variances
from dtheta.kernels.infinite.layer import Draw, Layer, Shape, Units


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Normalization over the channels of each place, without learned factors and shifts.

        nngp <- nngp / sqrt((p + eps)(q + eps)), the ntk alike

    It stands on Gaussian units: over infinitely many of them the mean is 0 and the mean square p, both fixed numbers.

    Attributes:
        eps: Added to the variance, as ``torch.nn.LayerNorm`` does.

    Raises:
        ConfigError: If ``eps`` is not above 0.
    """

    eps: float = 1e-5

    def __post_init__(self) -> None:
        if number(self.eps, "eps") <= 0:
            raise ConfigError(f"eps={self.eps}; expected a number above 0")

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        if not kernel.gaussian:
            raise ConfigError(
                f"{self} stands on inputs that are not Gaussian with mean 0, whose mean over the channels is not 0; "
                "put a Dense or Conv before it"
            )
        p, q = ((v + self.eps).rsqrt() for v in kernel.variances())
        ntk = None if kernel.ntk is None else kernel.ntk * p * q
        first, second = self._own(kernel.first, kernel.full), self._own(kernel.second, kernel.full)
        return replace(kernel, nngp=kernel.nngp * p * q, ntk=ntk, first=first, second=second).with_diagonal()

    def _own(self, covariance: Tensor, full: bool) -> Tensor:
        variance = own_variances(covariance, full) + self.eps
        if not full:
            return covariance / variance
        factor = variance.rsqrt()
        return covariance * factor[:, :, None] * factor[:, None, :]

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        norm = nn.LayerNorm(inputs[0], eps=self.eps, elementwise_affine=False)
        return (norm if len(inputs) == 1 else ChannelsLast(norm)), inputs


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout as in training: each unit is 0 with probability ``rate``, else divided by ``1 - rate``.

    Masks of different examples and places are independent, so that only an example's own entries change, by
    1 / (1 - rate). What is given as ``x2`` has masks of its own. For the network in use leave the layer out.

    Attributes:
        rate: In [0, 1).

    Raises:
        ConfigError: If the rate is not.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= number(self.rate, "rate") < 1:
            raise ConfigError(f"rate={self.rate} is the share of units that become 0; expected 0 or more, below 1")

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        first, second = (self._own(values, kernel.full) for values in (kernel.first, kernel.second))
        ntk = None if kernel.ntk is None else kernel.ntk.clone()
        if ntk is not None and kernel.same:
            own = torch.diagonal(ntk, 0, 0, 1)
            (torch.diagonal(own, 0, 0, 1) if kernel.full else own).div_(1 - self.rate)
        fields = {"nngp": kernel.nngp.clone(), "ntk": ntk, "first": first, "second": second}
        return replace(kernel, **fields, gaussian=kernel.gaussian and self.rate == 0).with_diagonal()

    def _own(self, covariance: Tensor, full: bool) -> Tensor:
        covariance = covariance.clone()
        own_variances(covariance, full).div_(1 - self.rate)
        return covariance

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        return nn.Dropout(self.rate), inputs
