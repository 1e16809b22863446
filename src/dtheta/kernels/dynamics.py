"""Training in function space: what gradient descent on a squared loss does under a fixed kernel, in closed form.

    df/dt(x) = -(1 / D) sum_j K(x, x_j) (f(x_j) - y_j)
    f_X(t) = y + exp(-K t / D) (f_X(0) - y)
    f_x(t) = f_x(0) + K_xX alpha(t),   alpha(t) = K^-1 (1 - exp(-K t / D)) (y - f_X(0))

This is exact for a model that is linear in its parameters, and for a network in the limit of infinite width (Jacot,
Gabriel and Hongler 2018, arXiv 1806.07572, theorem 2 and section 5; Lee et al. 2019, arXiv 1902.06720); for a network
of finite width it holds as far as the tangent kernel stays what it was (drift.py measures that). One eigendecomposition
serves all times, steps and penalties. Where K is singular nothing moves: outputs keep their start along its null
vectors, and so do new points, since K_xX v = 0 there for any positive semi-definite kernel.

The loss is |f - y|^2 / (2 D), and D is said, not guessed:

    average    D       whose
    entries    N O     mean over examples and outputs; Neural Tangents. torch's mse_loss is twice this: halve its rate
    examples   N       mean over examples; the NTK paper
    none       1       the sum

Shape legend: n = N training points, m new points, o = O outputs; k = n b eigenvalues, b and c as in matrices.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.errors import ConfigError, NonFinite
from dtheta.kernels.filters import Descent, Filter, Flow, Ridge
from dtheta.kernels.matrices import TOLERANCE, Gram, checked_cross, checked_gram, checked_targets

Average = Literal["entries", "examples", "none"]


@dataclass(frozen=True, eq=False)
class KernelDynamics:
    """A kernel in its eigenbasis, and what it is trained on; `kernel_dynamics` makes one.

    ``values`` (k,) float64 descend, ``vectors`` (k, k) have them as columns; eigenvalues of ``rounding`` or less are
    exactly 0. ``target`` and ``start`` (n, o) are y and f_X(0), ``average`` says what the loss is divided by.
    """

    values: Tensor
    vectors: Tensor
    target: Tensor
    start: Tensor
    average: Average
    rounding: float

    @property
    def examples(self) -> int:
        """N, the number of training points."""
        return self.target.shape[0]

    @property
    def block(self) -> int:
        """Outputs that one entry of an example stands for: 1 for a shared kernel, o for a full one."""
        return self.values.numel() // self.examples

    @property
    def divisor(self) -> float:
        """D of the loss |f - y|^2 / (2 D)."""
        return loss_divisor(self.average, *self.target.shape)

    @property
    def rates(self) -> Tensor:
        """Decay of each eigendirection in a unit of time, lambda / D, (k,)."""
        return self.values / self.divisor

    def flow(self, time: float = math.inf) -> KernelPredictor:
        """Return the model after gradient flow for ``time`` = steps times learning rate.

        Raises:
            ConfigError: For a negative time, or one that is no number.
        """
        return self._trained(Flow(checked_time(time), self.divisor))

    def descent(self, steps: int, learning_rate: float, momentum: float = 0.0) -> KernelPredictor:
        """Return the model after ``steps`` full-batch steps of ``torch.optim.SGD(lr, momentum)``, velocity 0 at first.

        Raises:
            ConfigError: For steps below 0, a learning rate not above 0, or momentum outside [0, 1).
            NonFinite: If the steps diverge so far that the outputs overflow.
        """
        rate, mu = number(learning_rate, "learning_rate"), checked_momentum(momentum)
        if rate <= 0:
            raise ConfigError(f"learning_rate is {rate}; expected a number above 0")
        return self._trained(Descent(whole(steps, "steps", least=0), rate, mu, self.divisor))

    def ridge(self, penalty: float) -> KernelPredictor:
        """Return kernel ridge regression of y - f(0); ``penalty``, in units of the kernel, is added to its diagonal.

        Raises:
            ConfigError: For a negative penalty.
        """
        return self._trained(Ridge(checked_penalty(penalty)))

    def coefficients(self) -> Tensor:
        """Return V^T (y - f(0)), (k, c)."""
        return self.vectors.mT @ (self.target - self.start).reshape(self.values.numel(), -1)

    def _trained(self, filter_: Filter) -> KernelPredictor:
        coefficients = self.coefficients()
        weights = self.vectors @ (filter_.gain(self.values)[:, None] * coefficients)
        left = self.vectors @ (filter_.residual(self.values)[:, None] * coefficients)
        shape = self.target.shape
        outputs = self.target - left.reshape(shape)
        if not bool(torch.isfinite(outputs).all() & torch.isfinite(weights).all()):
            raise NonFinite(
                "the outputs overflow: these steps diverge; take a learning rate below dt.max_learning_rate, which is "
                f"{2 * self.divisor / float(self.values[0]):.3g} without momentum"
            )
        return KernelPredictor(weights.reshape(shape), outputs, self.target, self.average, self.block)


@dataclass(frozen=True, eq=False)
class KernelPredictor:
    """A trained model in function space: ``weights`` alpha (n, o) and its ``outputs`` (n, o) on the training points.

    alpha has no part along null vectors of the kernel, where it would do nothing.

    ``target``, ``average`` and ``block`` are those of the `KernelDynamics` that it comes from.
    """

    weights: Tensor
    outputs: Tensor
    target: Tensor
    average: Average
    block: int

    @property
    def loss(self) -> float:
        """|f - y|^2 / (2 D) on the training points."""
        return float((self.outputs - self.target).square().sum() / (2 * loss_divisor(self.average, *self.target.shape)))

    def predict(self, kernel: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the outputs f(x) = f_x(0) + K_xX alpha on new points, (m, o) float64.

        Args:
            kernel: The new points (rows) with the training points: (m, n), or (m, n, o, o) if the training kernel had
                that form.
            start: The untrained model's outputs on the new points, (m,) or (m, o); None is 0.

        Raises:
            ShapeMismatch: If the kernel or the start does not fit.
            NonFinite: If one of them holds NaN or infinity.
        """
        n, o = self.target.shape
        cross = checked_cross(kernel, n, self.block).to(self.weights.device)
        moved = (cross @ self.weights.reshape(n * self.block, -1)).reshape(-1, o)
        if start is None:
            return moved
        return moved + checked_targets(start, kernel.shape[0], "start", o).to(moved.device)


def kernel_dynamics(
    kernel: Tensor,
    y: Tensor,
    start: Tensor | None = None,
    *,
    average: Average = "entries",
    tolerance: float = TOLERANCE,
) -> KernelDynamics:
    """Return training under a fixed kernel, decomposed once for all times, steps and penalties.

    Args:
        kernel: The training points with themselves, in any float precision: (n, n), the same for every output (a mean
            or pseudo-kernel, or infinite width), or (n, n, o, o) with the outputs coupled.
        y: Targets, (n,) or (n, o).
        start: Outputs of the model before training, of y's shape; None is 0.
        average: What the loss is divided by; see the module.
        tolerance: Asymmetry, and how far below 0 an eigenvalue may be, as a share of the largest; rounding makes that
            small, anything else is an error.

    Raises:
        ShapeMismatch: If the shapes do not fit.
        NonFinite: If something holds NaN or infinity.
        ConfigError: If the kernel is not symmetric or not positive semi-definite, or an option cannot be meant.
    """
    gram = checked_gram(kernel, tolerance)
    target = checked_targets(y, gram.examples, "y", gram.block if kernel.ndim == 4 else None).to(gram.entries.device)
    loss_divisor(average, *target.shape)
    first = torch.zeros_like(target)
    if start is not None:
        first = checked_targets(start, gram.examples, "start", target.shape[1]).to(target.device)
    values, vectors = spectrum(gram, tolerance)
    return KernelDynamics(values, vectors, target, first, average, gram.rounding)


def spectrum(gram: Gram, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (k,), descending and with what is rounding set to 0, and the eigenvectors (k, k).

    Raises:
        ConfigError: If an eigenvalue is below 0 by more than ``tolerance`` of the largest.
    """
    values, vectors = torch.linalg.eigh(gram.entries)
    values, vectors = values.flip(0), vectors.flip(1)
    require_semidefinite(values, tolerance)
    return values.where(values > gram.rounding, 0.0), vectors.contiguous()


def require_semidefinite(values: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raise ConfigError if the last of descending ``values`` (k,) is below 0 by more than ``tolerance``."""
    largest, smallest = float(values.abs().max()), float(values[-1])
    if smallest < -tolerance * largest:
        raise ConfigError(
            f"the kernel is not positive semi-definite: its smallest eigenvalue is {smallest:.3g}, its largest "
            f"{float(values[0]):.3g}; Gram matrices of gradients have none below 0. If rounding did this, compute the "
            "kernel in float64, or set tolerance"
        )


def loss_divisor(average: Average, examples: int, outputs: int) -> float:
    """Return D of the loss |f - y|^2 / (2 D).

    Raises:
        ConfigError: For an average that is not known.
    """
    if average not in get_args(Average):
        raise ConfigError(f"average is {average!r}; expected one of {', '.join(map(repr, get_args(Average)))}")
    return float({"entries": examples * outputs, "examples": examples, "none": 1}[average])


def checked_time(time: float) -> float:
    """Return a time, 0 to infinity.

    Raises:
        ConfigError: If it is none.
    """
    if isinstance(time, float) and time == math.inf:
        return time
    found = number(time, "time")
    if found < 0:
        raise ConfigError(f"time is {found}; expected 0 or more, up to math.inf: steps times learning rate")
    return found


def checked_penalty(penalty: float) -> float:
    """Return a ridge penalty, 0 or more.

    Raises:
        ConfigError: If it is none.
    """
    found = number(penalty, "penalty")
    if found < 0:
        raise ConfigError(f"penalty is {found}; expected 0 or more, in units of the kernel's diagonal")
    return found


def checked_momentum(momentum: float) -> float:
    """Return a momentum in [0, 1).

    Raises:
        ConfigError: If it is none.
    """
    found = number(momentum, "momentum")
    if not 0 <= found < 1:
        raise ConfigError(f"momentum is {found}; expected a number in [0, 1)")
    return found
