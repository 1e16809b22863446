"""What training under a fixed kernel does to each eigenvalue: spectral filters.

    f = f_0 + K alpha,   alpha = V gain(lambda) V^T (y - f_0),   y - f = V residual(lambda) V^T (y - f_0)
    residual = 1 - lambda gain

    gradient flow at time t             residual = exp(-lambda t / D)        gain = (1 - exp(-lambda t / D)) / lambda
    gradient descent, s steps of h      residual = (1 - h lambda / D)^s      gain = sum_{j<s} (1 - h lambda / D)^j h / D
    ridge with penalty p                residual = p / (lambda + p)          gain = 1 / (lambda + p)

The loss is |f - y|^2 / (2 D). All are computed without cancellation however small lambda is, down to 0, where all
have gain 0: the limits, t / D and 1 / p, would multiply what K_xX does there, which is rounding. Heavy-ball momentum
is that of torch.optim.SGD (v = momentum v + g, theta = theta - h v).

Sources: Jacot, Gabriel and Hongler 2018 (arXiv 1806.07572), section 5, for the flow, with D = N; Lee et al. 2019
(arXiv 1902.06720), equations 8 to 11, in which D = N O. Shape legend: k eigenvalues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Filter(Protocol):
    """A way to train, as a function of the eigenvalues of the kernel."""

    def gain(self, values: Tensor) -> Tensor:
        """Eigenvalues (k,) >= 0, those that are rounding set to 0, -> gain (k,), finite."""
        ...

    def residual(self, values: Tensor) -> Tensor:
        """Eigenvalues (k,) -> the share of y - f_0 that is left (k,)."""
        ...


@dataclass(frozen=True)
class Flow:
    """Gradient flow for ``time`` (steps times learning rate; infinity is the end), loss divided by ``divisor``."""

    time: float
    divisor: float

    def gain(self, values: Tensor) -> Tensor:
        """(k,) -> (k,)."""
        if math.isinf(self.time):
            return _inverse(values)
        return -torch.expm1(-values * (self.time / self.divisor)) * _inverse(values)

    def residual(self, values: Tensor) -> Tensor:
        """(k,) -> (k,)."""
        if math.isinf(self.time):
            return (values == 0).to(values.dtype)
        return torch.exp(-values * (self.time / self.divisor))


@dataclass(frozen=True)
class Descent:
    """``steps`` steps of gradient descent with ``learning_rate`` and ``momentum``, loss divided by ``divisor``."""

    steps: int
    learning_rate: float
    momentum: float
    divisor: float

    def gain(self, values: Tensor) -> Tensor:
        """(k,) -> (k,)."""
        # u' = momentum u + (1 - lambda c) / D,  c' = c + h u':  the power of an affine map, so that c needs no quotient
        h, mu, D = self.learning_rate, self.momentum, self.divisor
        step = values.new_zeros((values.numel(), 3, 3))
        step[:, 0] = torch.stack([1 - h * values / D, values.new_full(values.shape, h * mu), values * 0 + h / D], 1)
        step[:, 1] = torch.stack([-values / D, values.new_full(values.shape, mu), values * 0 + 1 / D], 1)
        step[:, 2, 2] = 1.0
        return torch.linalg.matrix_power(step, self.steps)[:, 0, 2].where(values > 0, 0.0)

    def residual(self, values: Tensor) -> Tensor:
        """(k,) -> (k,)."""
        return 1 - values * self.gain(values)


@dataclass(frozen=True)
class Ridge:
    """Kernel ridge regression: ``penalty`` added to the diagonal of the kernel."""

    penalty: float

    def gain(self, values: Tensor) -> Tensor:
        """(k,) -> (k,)."""
        return (1 / (values + self.penalty)).where(values > 0, 0.0)

    def residual(self, values: Tensor) -> Tensor:
        """(k,) -> (k,)."""
        if self.penalty == 0:
            return (values == 0).to(values.dtype)
        return self.penalty / (values + self.penalty)


def _inverse(values: Tensor) -> Tensor:
    """1 / lambda, and 0 at 0, (k,)."""
    return torch.where(values > 0, 1 / values.where(values > 0, 1.0), 0.0)
