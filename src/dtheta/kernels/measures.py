"""What a kernel says about a task before anything is trained: four numbers of a kernel and its labels.

    alignment            <K, Y Y^T> / (|K|_F |Y Y^T|_F)          in [0, 1]; how much of the kernel is about the labels
    effective dimension  sum_i lambda_i / (lambda_i + p)         directions that ridge with penalty p really uses
    label complexity     tr(Y^T K^-1 Y) / N                      squared norm of the move that fits the labels, over N
    definiteness         smallest and largest eigenvalue, rank   whether every labeling can be fitted at all

Sources: alignment, Cristianini et al. 2001, centered by Cortes, Mohri and Rostamizadeh 2012 (arXiv 1203.0550); label
complexity, Arora et al. 2019 (arXiv 1901.08584), up to their factor 2 and square root; definiteness, Jacot, Gabriel and
Hongler 2018 (arXiv 1806.07572), proposition 2: the limiting kernel of two layers or more is positive definite on the
sphere unless the nonlinearity is a polynomial.

Shape legend: n = N examples, o outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.kernels.dynamics import checked_penalty, kernel_dynamics, spectrum
from dtheta.kernels.matrices import TOLERANCE, checked_gram, checked_targets

_RANGE = 1e-8  # share of |y| outside the range of the kernel that is more than rounding


@dataclass(frozen=True)
class Definiteness:
    """``smallest`` and ``largest`` eigenvalue, and the ``rank``: how many of ``size`` are more than rounding."""

    smallest: float
    largest: float
    rank: int
    size: int

    @property
    def positive(self) -> bool:
        """Whether the kernel is positive definite, as far as its precision tells."""
        return self.rank == self.size


def alignment(kernel: Tensor, y: Tensor, *, center: bool = False, tolerance: float = TOLERANCE) -> float:
    """Return the alignment of a kernel with labels, 0 to 1.

    Args:
        kernel: (n, n), or (n, n, o, o), which is compared with all products y_ia y_jb.
        y: Labels, (n,) or (n, o); classes as one-hot rows.
        center: Subtract the mean from the features and from the labels: without, a kernel of large mean aligns with any
            labels of large mean. For a shared kernel this is the CKA of kernel and labels.
        tolerance: As for `kernel_dynamics`.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`, or if the kernel or the labels are zero, which have
            no direction; centered, also if they are constant.
    """
    gram = checked_gram(kernel, tolerance)
    target = checked_targets(y, gram.examples, "y", gram.block if kernel.ndim == 4 else None)
    matrix, target = gram.entries, target.to(gram.entries.device)
    if center:
        matrix, target = centered(matrix, gram.examples), target - target.mean(0)
    columns = target.reshape(matrix.shape[0], -1)
    norms = torch.linalg.matrix_norm(matrix), torch.linalg.matrix_norm(columns.mT @ columns)
    least = torch.finfo(torch.float64).eps * float(gram.entries.abs().max())
    if float(norms[0]) <= least or float(norms[1]) == 0:
        what = "the kernel" if float(norms[0]) <= least else "y"
        raise ConfigError(f"{what} is zero{' after centering' if center else ''} and has no direction to align")
    return float((columns * (matrix @ columns)).sum() / (norms[0] * norms[1]))


def centered(matrix: Tensor, examples: int) -> Tensor:
    """Return entries (n b, n2 b2) of examples with themselves, with the mean over examples taken from the features."""
    b = matrix.shape[0] // examples
    blocks = matrix.reshape(examples, b, examples, b)
    rows, columns = blocks.mean(0, keepdim=True), blocks.mean(2, keepdim=True)
    return (blocks - rows - columns + rows.mean(2, keepdim=True)).reshape(matrix.shape)


def effective_dimension(kernel: Tensor, penalty: float, *, tolerance: float = TOLERANCE) -> float:
    """Return sum lambda / (lambda + penalty), the trace of the ridge smoother: 0 to the rank of the kernel.

    Args:
        kernel: (n, n), whose count holds for each output, or (n, n, o, o).
        penalty: Above 0, in units of the kernel's diagonal; 0 counts the rank.
        tolerance: As for `kernel_dynamics`.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`, or for a negative penalty.
    """
    found = checked_penalty(penalty)
    values, _ = spectrum(checked_gram(kernel, tolerance), tolerance)
    return float((values > 0).sum() if found == 0 else (values / (values + found)).sum())


def label_complexity(kernel: Tensor, y: Tensor, start: Tensor | None = None, *, tolerance: float = TOLERANCE) -> float:
    """Return tr(d^T K^-1 d) / N with d = y - start: the squared length of the shortest move that fits y, over N.

    Infinity if the kernel cannot fit y: a part of d lies where its eigenvalues are 0.

    Args:
        kernel: (n, n) or (n, n, o, o).
        y: Labels, (n,) or (n, o).
        start: The model's outputs before training, of y's shape; None is 0.
        tolerance: As for `kernel_dynamics`.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`.
    """
    dynamics = kernel_dynamics(kernel, y, start, tolerance=tolerance)
    squares = dynamics.coefficients().square().sum(1)
    null = dynamics.values == 0
    if float(squares[null].sum()) > _RANGE**2 * float(squares.sum()):
        return math.inf
    return float((squares[~null] / dynamics.values[~null]).sum() / dynamics.examples)


def definiteness(kernel: Tensor, *, tolerance: float = TOLERANCE) -> Definiteness:
    """Return the extreme eigenvalues of a kernel (n, n) or (n, n, o, o), and how many are above rounding.

    The rounding is that of the kernel's own dtype: compute it in float64 to tell small eigenvalues from none.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`.
    """
    gram = checked_gram(kernel, tolerance)
    values = torch.linalg.eigvalsh(gram.entries)
    smallest, largest = float(values[0]), float(values[-1])
    rank = int((values > gram.rounding).sum())
    return Definiteness(smallest, largest, rank, values.numel())
