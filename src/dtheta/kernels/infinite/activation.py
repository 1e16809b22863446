"""Activations: functions of one unit, and what they make of covariances.

    nngp <- E[s(u) s(v)]         ntk <- ntk * E[s'(u) s'(v)],        (u, v) Gaussian with the covariances before

A subclass says what its dual is (`duals`), or leaves it to the Hermite series of any function (`Elementwise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.arguments import number
from dtheta.errors import ConfigError
from dtheta.kernels.infinite import duals
from dtheta.kernels.infinite.duals import Dual
from dtheta.kernels.infinite.hermite import mean_product, mean_square, slope_of
from dtheta.kernels.infinite.kernel import Kernel, own_variances
from dtheta.kernels.infinite.layer import Draw, Layer, Shape, Units


class Activation(Layer):
    """What all activations share."""

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        raise NotImplementedError

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)], for the covariance c and the variances p and q."""
        raise NotImplementedError

    def own(self, p: Tensor, derivative: bool) -> Dual:
        """Return E[s(u)^2] and E[s'(u)^2] for the variance p: the dual at c = p = q."""
        return self.dual(p, p, p, derivative)

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        if not kernel.gaussian:
            raise ConfigError(
                f"{self} stands on inputs that are not Gaussian with mean 0, where its kernel has no closed form; "
                "put a Dense or Conv before it"
            )
        nngp, slope = self.dual(kernel.nngp, *kernel.variances(), kernel.ntk is not None)
        first, slopes = self._own_pairs(kernel.first, kernel.full, slope is not None)
        second = first if kernel.second is kernel.first else self._own_pairs(kernel.second, kernel.full, False)[0]
        kernel.set_own(nngp, first)
        ntk = None
        if kernel.ntk is not None and slope is not None and slopes is not None:
            kernel.set_own(slope, slopes)
            ntk = slope.mul_(kernel.ntk)
        return replace(kernel, nngp=nngp, ntk=ntk, first=first, second=second, gaussian=False)

    def _own_pairs(self, covariance: Tensor, full: bool, derivative: bool) -> Dual:
        """Return what becomes of a set's covariance with itself."""
        p = own_variances(covariance, full)
        own = self.own(p, derivative)
        if not full:
            return own
        pairs = self.dual(covariance, p[:, :, None], p[:, None, :], derivative)
        for values, diagonal in zip(pairs, own, strict=True):
            if values is not None and diagonal is not None:
                torch.diagonal(values, 0, -2, -1).copy_(diagonal)
        return pairs

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        return Applied(self), inputs


class Applied(nn.Module):
    """An activation as a module."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        return self.activation.function(x)

    def extra_repr(self) -> str:
        """Return what ``print`` shows of it."""
        return str(self.activation)


@dataclass(frozen=True)
class ARelu(Activation):
    """``negative * min(x, 0) + positive * max(x, 0)``: ReLU, leaky ReLU, the absolute value, and the identity."""

    negative: float = 0.0
    positive: float = 1.0

    def __post_init__(self) -> None:
        number(self.negative, "negative")
        number(self.positive, "positive")

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return F.relu(x) if self == RELU else torch.where(x < 0, self.negative * x, self.positive * x)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        return duals.rectifier(c, p, q, derivative, self.negative, self.positive)

    def own(self, p: Tensor, derivative: bool) -> Dual:
        """Return the dual at an angle of 0 exactly (a right one where the variance is 0)."""
        a, b = self.negative, self.positive
        slope = None
        if derivative:  # in the dtype of p: a choice between two plain numbers would be made in float32
            slope = torch.full_like(p, (a * a + b * b) / 2).masked_fill_(p == 0, ((a + b) / 2) ** 2)
        return p * ((a * a + b * b) / 2), slope


RELU = ARelu()


def Relu() -> ARelu:
    """Return max(x, 0)."""
    return RELU


def LeakyRelu(negative: float = 0.01) -> ARelu:
    """Return max(x, 0) + negative * min(x, 0)."""
    return ARelu(negative, 1.0)


def Abs() -> ARelu:
    """Return |x|."""
    return ARelu(-1.0, 1.0)


@dataclass(frozen=True)
class Erf(Activation):
    """``scale * erf(rate x) + shift``."""

    rate: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate", "scale", "shift"):
            number(getattr(self, name), name)

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return self.scale * torch.erf(self.rate * x) + self.shift

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        square = self.rate**2  # erf is odd, so that the shift adds its square alone
        value, slope = duals.erf(c * square, p * square, q * square, derivative)
        value = value.mul_(self.scale**2).add_(self.shift**2)
        return value, None if slope is None else slope.mul_(square * self.scale**2)


def SigmoidLike() -> Erf:
    """Return ``erf(x / 2.4020563531719796) / 2 + 1/2``, within 0.0098 of the logistic sigmoid everywhere.

    An approximation, as the sigmoid's own dual has no closed form; ``Elementwise(torch.sigmoid)`` has no such error.
    """
    return Erf(1 / 2.4020563531719796, 0.5, 0.5)


@dataclass(frozen=True)
class Gelu(Activation):
    """``x Phi(x)``, exact and not its approximation by tanh."""

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return F.gelu(x)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        return duals.gelu(c, p, q, derivative)


@dataclass(frozen=True)
class Sin(Activation):
    """``sin(frequency x + phase)``."""

    frequency: float = 1.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        number(self.frequency, "frequency")
        number(self.phase, "phase")

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return torch.sin(self.frequency * x + self.phase)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        return duals.sine(c, p, q, derivative, self.frequency, self.phase)


def Cos(frequency: float = 1.0, phase: float = 0.0) -> Sin:
    """Return ``cos(frequency x + phase)``."""
    return Sin(frequency, phase + math.pi / 2)


@dataclass(frozen=True)
class Exp(Activation):
    """``exp(rate x)``."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        number(self.rate, "rate")

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return torch.exp(self.rate * x)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        return duals.exponential(c, p, q, derivative, self.rate)


@dataclass(frozen=True)
class Gaussian(Activation):
    """``exp(-rate x^2)``; the default is the bump exp(-x^2 / 2)."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        if number(self.rate, "rate") < 0:
            raise ConfigError(f"rate={self.rate} makes exp(-rate x^2) grow without bound; expected 0 or more")

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return torch.exp(-self.rate * x * x)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        return duals.gaussian(c, p, q, derivative, self.rate)


@dataclass(frozen=True)
class Sign(Activation):
    """``sign(x)``; its derivative is 0, so no gradient passes and the NTK is that of the layers behind."""

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return torch.sign(x)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        return duals.sign(c, p, q, derivative)

    def own(self, p: Tensor, derivative: bool) -> Dual:
        """Return the dual at an angle of 0 exactly."""
        return (p > 0).to(p.dtype), torch.zeros_like(p) if derivative else None


@dataclass(frozen=True)
class Elementwise(Activation):
    """Any function of torch that acts on each number alone, such as ``torch.tanh``.

    Attributes:
        apply: The function.
        tolerance: Largest error of a dual, relative to the norm of the function; reaching it is checked.

    Raises:
        ConfigError: If ``apply`` is no function, or the tolerance is not above 0.
    """

    apply: Callable[[Tensor], Tensor]
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if not callable(self.apply):
            raise ConfigError(f"the activation is {self.apply!r}; expected a function of a tensor, such as torch.tanh")
        if number(self.tolerance, "tolerance") <= 0:
            raise ConfigError(f"tolerance={self.tolerance}; expected a number above 0")

    def function(self, x: Tensor) -> Tensor:
        """Return s(x)."""
        return self.apply(x)

    def dual(self, c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
        """Return E[s(u) s(v)] and, if wanted, E[s'(u) s'(v)]."""
        value = mean_product(self.apply, c, p, q, self.tolerance)
        return value, mean_product(slope_of(self.apply), c, p, q, self.tolerance) if derivative else None

    def own(self, p: Tensor, derivative: bool) -> Dual:
        """Return the mean squares, which no number of terms bounds."""
        value = mean_square(self.apply, p, self.tolerance)
        return value, mean_square(slope_of(self.apply), p, self.tolerance) if derivative else None
