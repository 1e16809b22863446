"""From kernels to predicted accuracy: kernel regression with head and method together, left-one-out, in closed form.

    f(x)   = m + k_xX (K + p)^-1 (Y - m),   K = K_head / tr K_head + w K_method / tr K_method
    f_-i   = the same without example i     classical identity, no refits

Y are one-hot rows and m the class frequencies of the other half. Head and method learn from the same examples, as in
training; a start from the other half's head, f0 in place of m, ranked methods worse on the tasks that this was
developed on. Ridge with penalty p stands for training that stops in time, w for the method's learning rate beside the
head's: a tuned rate. Both are chosen on the one half and used on the other, so the accuracy is of choices that have not
seen the examples. With w = 0 only the head learns.

The loss is the squared error. Its linear model is exact where networks are wide and moves are short (Jacot, Gabriel and
Hongler 2018, arXiv 1806.07572; Malladi et al. 2023, arXiv 2210.05643, for fine-tuning); ``check`` asks the network.

Shape legend: n examples of a half, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.kernels.dynamics import KernelDynamics, kernel_dynamics
from dtheta.kernels.leave_one_out import leave_one_out
from dtheta.kernels.measures import alignment, centered

#: Method over head, by trace.
STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
#: Penalties, in units of the mean of the kernel's diagonal.
PENALTIES = tuple(float(p) for p in torch.logspace(-3, 2, 16, dtype=torch.float64))
_ALIKE = 1e-6  # share of a kernel that is rounding where all of it is one number


@dataclass(frozen=True, eq=False)
class Half:
    """What one half of the examples knows of a method.

    Attributes:
        labels: Class ids (n,).
        target: Y (n, C), float64.
        prior: m (n, C), float64.
        start: Probabilities by the head of the other half (n, C), float64: where derivatives are taken.
        head: Kernel of the head (n, n), float64.
        kernel: Kernel of the method (n, n), float64.
        moves: The same per squared displacement of the weights (n, n), float64; see ``budget``.
    """

    labels: Tensor
    target: Tensor
    prior: Tensor
    start: Tensor
    head: Tensor
    kernel: Tensor
    moves: Tensor

    def dynamics(self, strength: float) -> KernelDynamics:
        """Return the regression with the method that much stronger than the head; mean diagonal 1."""
        return kernel_dynamics(self.mixed(strength), self.target, self.prior, average="examples")

    def mixed(self, strength: float) -> Tensor:
        """Return both kernels as one, with a mean diagonal of 1."""
        whole = normed(self.head) + strength * normed(self.kernel)
        return whole / (1.0 + (strength if float(self.kernel.trace()) > 0 else 0.0))


@dataclass(frozen=True, eq=False)
class Regression:
    """Predictions of every example of a half by the others, at a strength and penalty that the other half chose.

    Attributes:
        predictions: (n, C).
        correct: 1 where the largest is the label's (n,).
        errors: Squared error, summed over classes (n,).
        strength: w.
        penalty: p, in units of the mean diagonal.
    """

    predictions: Tensor
    correct: Tensor
    errors: Tensor
    strength: float
    penalty: float


def regress(halves: Sequence[Half], strengths: Sequence[float] = STRENGTHS) -> list[Regression]:
    """Return the regression of each half; see the module's docstring."""
    tables = [_table(half, strengths) for half in halves]  # (w, p, n, C) of predictions
    errors = [(t - half.target).square().sum(-1) for t, half in zip(tables, halves, strict=True)]
    found = []
    for i, half in enumerate(halves):
        other = errors[1 - i].mean(-1)
        w, p = divmod(int(other.argmin()), len(PENALTIES))
        predictions = tables[i][w, p]
        correct = (predictions.argmax(1) == half.labels).double()
        found.append(Regression(predictions, correct, errors[i][w, p], strengths[w], PENALTIES[p]))
    return found


def _table(half: Half, strengths: Sequence[float]) -> Tensor:
    """Return the left-one-out predictions at every strength and penalty."""
    rows = []
    for strength in strengths:
        dynamics = half.dynamics(strength)
        rows.append(torch.stack([leave_one_out(dynamics, penalty=p).predictions for p in PENALTIES]))
    return torch.stack(rows)


def normed(kernel: Tensor) -> Tensor:
    """Return a kernel with a mean diagonal of 1, or as it is where it is zero."""
    mean = float(kernel.diagonal().mean())
    return kernel / mean if mean > 0 else kernel


def tells_apart(kernel: Tensor) -> bool:
    """Tell whether a kernel (n, n) is more than one number for all pairs, as that of a bias behind all layers is."""
    varying = torch.linalg.matrix_norm(centered(kernel, len(kernel)))
    return float(varying) > _ALIKE * float(torch.linalg.matrix_norm(kernel))


def aligned(kernel: Tensor, wanted: Tensor) -> float:
    """Return the centered alignment of a kernel (n, n) with ``wanted`` (n, C); 0 where it tells no points apart."""
    return alignment(kernel, wanted, center=True) if tells_apart(kernel) else 0.0
