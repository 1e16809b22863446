"""Kernel matrices, targets and starts as callers give them, checked and brought to one form.

    shared   K (n, n)         every output moves under the same kernel: a mean or pseudo-kernel, infinite width
    full     K (n, n, o, o)   entry (i, j, a, b) couples output a of example i with output b of example j

Both become one symmetric matrix over "entries": an entry is an example (shared), or an example and an output (full).
Everything runs in float64 on the kernel's device: eigenvalues of tangent kernels span more than float32 resolves.

Shape legend: n examples, m new points, o outputs; b outputs an entry stands for (1 shared, o full), c = o / b columns;
entries (n b, n b), targets (n b, c).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.arguments import number
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

TOLERANCE = 1e-5  # what rounding in float32 may add to a kernel, as a share of its largest entry or eigenvalue
# In eps |K|_F. Singular Gram matrices of 60 to 1000 points had eigenvalues of up to 0.23 in float32 and 1.8 in float64,
# where the eigenvalue solver's own rounding is seen too.
_ROUNDING = 4.0


@dataclass(frozen=True, eq=False)
class Gram:
    """A checked kernel of n = ``examples`` training points: ``entries`` (n b, n b) float64, symmetric.

    An eigenvalue of ``rounding`` or less says nothing: the dtype that the kernel came in may have made it.
    """

    entries: Tensor
    examples: int
    rounding: float

    @property
    def block(self) -> int:
        """Outputs that an entry of an example stands for: 1 for a shared kernel, o for a full one."""
        return self.entries.shape[0] // self.examples


def checked_gram(kernel: Tensor, tolerance: float = TOLERANCE, what: str = "the kernel") -> Gram:
    """Return the kernel (n, n) or (n, n, o, o) of n points with themselves.

    Raises:
        ShapeMismatch: If it has another shape, or no entries.
        NonFinite: If it holds NaN or infinity.
        ConfigError: If it is not symmetric within ``tolerance`` of its largest entry, or no Gram matrix: an entry is
            larger than the geometric mean of its row's and its column's diagonal entries.
    """
    matrix = _entries(kernel, what)
    n = kernel.shape[0]
    if kernel.shape[1] != n:
        raise ShapeMismatch(
            f"{what} has shape {tuple(kernel.shape)}; expected (n, n) or (n, n, o, o), the training points with "
            "themselves; kernels with new points go to predict"
        )
    slack = number(tolerance, "tolerance") * float(matrix.abs().max())
    apart = float((matrix - matrix.mT).abs().max())
    if apart > slack:
        raise ConfigError(
            f"{what} is not symmetric: K and its transpose differ by {apart:.3g}, more than {slack:.3g}; a kernel of "
            "points with themselves is (check the order of the points), else take (K + K.mT) / 2 knowingly"
        )
    _require_gram(matrix, slack, what)
    dtype = kernel.dtype if kernel.dtype.is_floating_point else torch.float64
    rounding = _ROUNDING * torch.finfo(dtype).eps * float(torch.linalg.matrix_norm(matrix))
    return Gram((matrix + matrix.mT) / 2, n, rounding)


def checked_cross(kernel: Tensor, gram_examples: int, block: int, what: str = "the kernel with new points") -> Tensor:
    """Return a kernel (m, n) or (m, n, o, o) of new points with the training points as float64 (m b, n b).

    Raises:
        ShapeMismatch: If it does not fit the kernel of the training points.
        NonFinite: If it holds NaN or infinity.
    """
    wanted = f"(m, {gram_examples})" if block == 1 else f"(m, {gram_examples}, {block}, {block})"
    fits = kernel.ndim in (2, 4) and kernel.shape[1] == gram_examples
    if not fits or (kernel.shape[2] if kernel.ndim == 4 else 1) != block:
        raise ShapeMismatch(f"{what} has shape {tuple(kernel.shape)}; expected {wanted}: rows are the new points")
    return _entries(kernel, what)


def checked_targets(values: Tensor, rows: int, what: str, outputs: int | None = None) -> Tensor:
    """Return targets or outputs (rows,) or (rows, o) as float64 (rows, o).

    Raises:
        ShapeMismatch: If they have other rows, or other than ``outputs`` columns.
        NonFinite: If they hold NaN or infinity.
    """
    found = values.detach()[:, None] if values.ndim == 1 else values.detach()
    if found.ndim != 2 or found.shape[0] != rows or found.shape[1] != (outputs or max(1, found.shape[1])):
        columns = "o" if outputs is None else str(outputs)
        raise ShapeMismatch(
            f"{what} has shape {tuple(values.shape)}; expected ({rows},) or ({rows}, {columns}); class labels become "
            "targets as one-hot rows, torch.nn.functional.one_hot(labels)"
        )
    found = found.double()
    _require_finite(found, what)
    return found


def _require_gram(matrix: Tensor, slack: float, what: str) -> None:
    """Raise if an entry breaks Cauchy and Schwarz: a cheap test that finds most of what is no kernel."""
    norms = matrix.diagonal().clamp(min=0).sqrt()
    excess = matrix.abs() - norms[:, None] * norms
    if float(excess.max()) > slack:
        i, j = divmod(int(excess.argmax()), matrix.shape[0])
        raise ConfigError(
            f"{what} is not positive semi-definite: entry ({i}, {j}) is {float(matrix[i, j]):.3g}, the diagonal entries"
            f" of its row and column are {float(matrix[i, i]):.3g} and {float(matrix[j, j]):.3g}; Gram matrices of "
            "gradients have no such entries"
        )


def _entries(kernel: Tensor, what: str) -> Tensor:
    """Return (n, m) or (n, m, o, o) as a float64 matrix (n b, m b)."""
    square = kernel.ndim == 2 or (kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3])
    if not square or kernel.numel() == 0 or kernel.is_complex():
        raise ShapeMismatch(f"{what} has shape {tuple(kernel.shape)}; expected real numbers (n, m) or (n, m, o, o)")
    matrix = kernel.detach()
    if kernel.ndim == 4:
        n, m, o, _ = kernel.shape
        matrix = matrix.permute(0, 2, 1, 3).reshape(n * o, m * o)
    matrix = matrix.double()
    _require_finite(matrix, what)
    return matrix


def _require_finite(values: Tensor, what: str) -> None:
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise NonFinite(
            f"{what} holds NaN or infinity, first at {first}, {int(bad.sum())} of {values.numel()} entries; look at "
            "the model's outputs and gradients on that example"
        )
