"""How far a network is from the linear model that its tangent kernel describes: when not to believe a prediction.

    drift          K_0 against K_t, after a short run: CKA(K_0, K_t), tr K_t / tr K_0, |K_t - K_0|_F / |K_0|_F
    nonlinearity   |f(theta + d) - f(theta) - J d| / |f(theta + d) - f(theta)|

CKA (Kornblith et al. 2019, arXiv 1905.00414) sees directions only; the inflation of the kernel, which makes narrow
networks faster than predicted, is in the traces.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.matrices import TOLERANCE, checked_gram
from dtheta.kernels.measures import centered


@dataclass(frozen=True)
class KernelDrift:
    """What became of a kernel: ``cka`` 1 if only its scale changed, ``inflation`` its trace then over now, ``change``.

    ``cka`` compares the kernels with centered features; ``inflation`` is tr K_t / tr K_0; ``change`` is
    |K_t - K_0|_F / |K_0|_F, 0 if nothing changed.
    """

    cka: float
    inflation: float
    change: float


def kernel_drift(before: Tensor, after: Tensor, *, tolerance: float = TOLERANCE) -> KernelDrift:
    """Compare the kernel of the same points before and after training.

    Args:
        before: (n, n) or (n, n, o, o).
        after: Of the same shape, the same points in the same order.
        tolerance: As for `kernel_dynamics`.

    Raises:
        ShapeMismatch: If the shapes differ.
        NonFinite, ConfigError: As `kernel_dynamics`, or if one is zero, or constant over the points.
    """
    if before.shape != after.shape:
        raise ShapeMismatch(
            f"the kernels have shapes {tuple(before.shape)} and {tuple(after.shape)}; expected the same"
        )
    first, last = (checked_gram(kernel, tolerance, what) for kernel, what in ((before, "before"), (after, "after")))
    A, B = first.entries, last.entries.to(first.entries.device)
    a, b = centered(A, first.examples), centered(B, last.examples)
    norms = [float(torch.linalg.matrix_norm(matrix)) for matrix in (a, b)]
    for norm, whole, what in zip(norms, (A, B), ("before", "after"), strict=True):
        if norm <= 1e-12 * float(torch.linalg.matrix_norm(whole)):
            raise ConfigError(
                f"the kernel {what} training does not tell the points apart: it has no direction to compare"
            )
    change = float(torch.linalg.matrix_norm(B - A) / torch.linalg.matrix_norm(A))
    return KernelDrift(float((a * b).sum()) / (norms[0] * norms[1]), float(B.trace() / A.trace()), change)


def nonlinearity_index(before: Tensor, after: Tensor, linear: Tensor) -> float:
    """Return the share of a change of outputs that the linear model does not explain; 0 if it is linear.

    Args:
        before: Outputs at theta, of any shape.
        after: Outputs at theta + d, of the same shape.
        linear: J d, the predicted change, of the same shape.

    Raises:
        ShapeMismatch: If the shapes differ.
        NonFinite: If something holds NaN or infinity.
        ConfigError: If the outputs did not change.
    """
    if not before.shape == after.shape == linear.shape:
        found = ", ".join(str(tuple(t.shape)) for t in (before, after, linear))
        raise ShapeMismatch(f"before, after and linear have shapes {found}; expected the same")
    moved = after.detach().double() - before.detach().double()
    missed = torch.linalg.vector_norm(moved - linear.detach().double())
    whole = torch.linalg.vector_norm(moved)
    if not bool(torch.isfinite(missed)):
        raise NonFinite("the outputs, or their linear prediction, hold NaN or infinity; take a shorter step")
    if float(whole) == 0:
        raise ConfigError("the outputs did not change: there is nothing to explain; take a longer step")
    return float(missed / whole)
