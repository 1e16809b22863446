"""What a kernel predicts for each training example when that example is left out, without n refits.

    ridge    y_i - u_i = G_ii^-1 alpha_i,   alpha = (K + p)^-1 d,  G = (K + p)^-1,  d = y - f(0)
    flow     u_i(t) = L^-1[ u_i(p) / p ](t / D')

The first is the classical identity (Allen 1974; for kernels, Wahba 1990). The second is ours: the path of gradient flow
is the inverse Laplace transform, in the penalty, of the path of ridge regression, since

    K^-1 (1 - exp(-K s)) = L^-1[ (K + p)^-1 / p ](s)

holds for the kernel without example i as well, and there the ridge identity is exact for complex penalties. The
transform is a sum over a few penalties on a contour around the negative axis, which holds all poles (Trefethen,
Weideman and Schmelzer 2006, "Talbot quadratures and rational approximations"; error about 3.9^-N for N penalties).
So an early-stopping time is chosen by the error of n exact refits, at the price of a few products.

Left out is an example with all its outputs: G_ii is (b, b). D' is the divisor of the loss over n - 1 examples.

Shape legend: n examples, o outputs, P penalties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import number
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.dynamics import KernelDynamics, checked_penalty, checked_time, loss_divisor
from dtheta.kernels.left_out import left_out
from dtheta.kernels.matrices import checked_targets

Score = Callable[[Tensor], float]
_CONTOUR = 32  # penalties of the inverse transform, half of them conjugates
_TIMES, _PENALTIES = 48, 45
_SMALLEST_RATE = 1e-8  # share of the largest rate that the default times still wait for


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """``predictions`` (n, o) for each example by the others, and ``residuals`` (n, o) = y - predictions."""

    predictions: Tensor
    residuals: Tensor

    @property
    def mse(self) -> float:
        """Mean squared residual over examples and outputs."""
        return float(self.residuals.square().mean())


@dataclass(frozen=True)
class Choice:
    """The best ``value`` of a ``grid``, and the ``scores`` of all of it; smaller is better.

    ``at_edge`` is true if the best one is the first or the last: a wider grid may hold a better one.
    """

    value: float
    grid: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def score(self) -> float:
        """Score of the best."""
        return min(self.scores)

    @property
    def at_edge(self) -> bool:
        """Whether the best value is at an end of the grid."""
        return self.value in (self.grid[0], self.grid[-1])


def leave_one_out(dynamics: KernelDynamics, *, penalty: float | None = None, time: float | None = None) -> LeaveOneOut:
    """Return the predictions of n refits, each without one example, in closed form.

    Args:
        dynamics: Kernel, targets and starts, by `kernel_dynamics`.
        penalty: Of ridge regression; 0 is the interpolation of least norm.
        time: Of gradient flow, steps times learning rate, on the loss averaged over the n - 1 examples that are left.

    One of penalty and time is given. Exact up to rounding: about 1e-8 of |y - f(0)| at worst.

    Raises:
        ConfigError: If both or none are given, or for a single example.
    """
    if (penalty is None) == (time is None):
        raise ConfigError("leave_one_out takes a penalty or a time, one of them: leave_one_out(dynamics, penalty=1e-3)")
    if dynamics.examples < 2:
        raise ConfigError("there is one example; leaving it out leaves nothing to learn from")
    if penalty is not None:
        left = _ridge(dynamics, checked_penalty(penalty))
    else:
        left = _flow(dynamics, checked_time(math.inf if time is None else time))
    return LeaveOneOut(dynamics.target - left, left)


def best_penalty(
    dynamics: KernelDynamics, penalties: Sequence[float] | None = None, score: Score | None = None
) -> Choice:
    """Return the ridge penalty with the least leave-one-out score.

    Args:
        dynamics: By `kernel_dynamics`.
        penalties: To choose from; None is 1e-8 to 1e3 times the mean eigenvalue, four a decade.
        score: Takes leave-one-out predictions (n, o) and returns a number, smaller is better, such as an error rate;
            None is the mean squared error.

    Raises:
        ConfigError: As `leave_one_out`, or for no penalties.
    """
    if penalties is None:
        mean = float(dynamics.values.mean())
        penalties = [(mean or 1.0) * float(f) for f in np.logspace(-8, 3, _PENALTIES)]
    return _choice(penalties, lambda p: leave_one_out(dynamics, penalty=p), dynamics.target, score, "penalties")


def early_stopping_time(
    dynamics: KernelDynamics,
    times: Sequence[float] | None = None,
    score: Score | None = None,
    validation: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor] | None = None,
) -> Choice:
    """Return the time at which gradient flow is best stopped: by leave-one-out, or on validation data.

    Args:
        dynamics: By `kernel_dynamics`.
        times: To choose from, steps times learning rate; None is a log grid from a tenth of the fastest direction's
            time constant to ten times the slowest one's (of those not below 1e-8 of the fastest).
        score: As for `best_penalty`; with ``validation`` it gets the predictions on those points.
        validation: Kernel (m, n) of new points with the training points, their targets, and optionally their starts.

    Raises:
        ConfigError: As `leave_one_out`, or for no times, or a kernel that is zero.
        ShapeMismatch, NonFinite: If the validation data does not fit.
    """
    times = _default_times(dynamics) if times is None else times
    if validation is None:
        return _choice(times, lambda t: leave_one_out(dynamics, time=t), dynamics.target, score, "times")
    if len(validation) not in (2, 3):
        raise ShapeMismatch(f"validation has {len(validation)} parts; expected (kernel, targets) or with starts third")
    kernel, wanted, *start = validation
    target = checked_targets(wanted, kernel.shape[0], "validation targets", dynamics.target.shape[1])
    target = target.to(dynamics.target.device)

    def on_validation(time: float) -> LeaveOneOut:
        predicted = dynamics.flow(time).predict(kernel, *start)
        return LeaveOneOut(predicted, target - predicted)

    return _choice(times, on_validation, target, score, "times")


def _choice(
    grid: Sequence[float], run: Callable[[float], LeaveOneOut], target: Tensor, score: Score | None, what: str
) -> Choice:
    values = tuple(float(value) for value in grid)
    if not values:
        raise ConfigError(f"no {what} were given; expected at least one")
    found = [run(value) for value in values]
    scores = tuple(one.mse if score is None else number(score(one.predictions), "the score") for one in found)
    return Choice(values[min(range(len(values)), key=scores.__getitem__)], values, scores)


def _default_times(dynamics: KernelDynamics) -> list[float]:
    rates = dynamics.rates[dynamics.rates > _SMALLEST_RATE * dynamics.rates[0]]
    if rates.numel() == 0:
        raise ConfigError("the kernel is zero: nothing moves at any time; choose other parameters to train")
    first, last = math.log10(0.1 / float(rates[0])), math.log10(10 / float(rates[-1]))
    return [float(t) for t in np.logspace(first, last, _TIMES)]


def _ridge(dynamics: KernelDynamics, penalty: float) -> Tensor:
    """Residuals (n, o) of ridge regression."""
    return left_out(dynamics, dynamics.values.new_tensor([penalty]))[..., 0]


def _flow(dynamics: KernelDynamics, time: float) -> Tensor:
    """Residuals (n, o) of gradient flow: a sum of ridge residuals over complex penalties."""
    d = dynamics.target - dynamics.start
    divisor = loss_divisor(dynamics.average, dynamics.examples - 1, dynamics.target.shape[1])
    s = time / divisor
    if time == 0 or float(dynamics.values[0]) == 0:
        return d
    if math.isinf(s):
        return _ridge(dynamics, 0.0)
    z, weight = talbot(_CONTOUR, dynamics.values)
    left = left_out(dynamics, z / s)
    return d - ((d[..., None] - left) * weight).sum(-1).real


def talbot(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes z (P,) and weights (P,), P = count / 2, with  L^-1[u(p) / p](s) = Re sum weight u(z / s).

    For transforms whose singularities all lie on the real axis up to 0; nodes are those of the upper half plane.
    """
    theta = (2 * np.arange(count // 2) + 1) * np.pi / count
    cot = 1 / np.tan(0.6407 * theta)
    z = count * (0.5017 * theta * cot - 0.6122 + 0.2645j * theta)
    slope = count * (0.5017 * cot - 0.5017 * 0.6407 * theta * (1 + cot**2) + 0.2645j)
    weight = 2 * np.exp(z) * slope / (1j * count * z)
    return torch.from_numpy(z).to(like.device), torch.from_numpy(weight).to(like.device)
