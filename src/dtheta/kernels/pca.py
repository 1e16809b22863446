"""Kernel principal components: the functions that gradient descent learns first, and their eigenvalues.

    K v = N lambda v,   f_i(x_j) = sqrt(N) v_ij,   f_i(x) = 1 / (N lambda_i) sum_j K(x, x_j) f_i(x_j)

Under a squared loss averaged over N examples the error along f_i decays as exp(-lambda_i t) (Jacot, Gabriel and Hongler
2018, arXiv 1806.07572, section 5.1, where the components are not centered). Centered, it is kernel PCA (Schoelkopf,
Smola and Mueller 1998): the PCA of the gradients less their mean.

A few components of a large kernel come from block Lanczos, certified to have overlooked none (core/gram.py).

Shape legend: n examples, m new points, k components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.gram import gram_pairs
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NotConverged, ShapeMismatch
from dtheta.kernels.dynamics import spectrum
from dtheta.kernels.matrices import TOLERANCE, Gram, checked_cross, checked_gram

_ACCURACY = 1e-8  # relative, of sqrt(lambda): float64 reaches it by a Gram matrix down to 1e-8 of the largest
_WHOLE = 400  # up to this size all eigenvalues cost no more than a few


@dataclass(frozen=True, eq=False)
class KernelPCA:
    """``values`` (k,) are eigenvalues of K / N, descending; ``vectors`` (n, k) have orthonormal columns.

    ``column_means`` (n,) and ``mean`` are those of the kernel if it was centered, else None.
    """

    values: Tensor
    vectors: Tensor
    column_means: Tensor | None = None
    mean: Tensor | None = None

    @property
    def functions(self) -> Tensor:
        """Principal functions f_i on the training points, (n, k), of mean square 1."""
        return self.vectors * self.vectors.shape[0] ** 0.5

    @property
    def scores(self) -> Tensor:
        """Coordinates of the training points in feature space, (n, k): sqrt(N lambda_i) v_i."""
        return self.functions * self.values.sqrt()

    def project(self, kernel: Tensor) -> Tensor:
        """Return the coordinates (m, k) of new points, from their kernel (m, n) with the training points.

        ``project(kernel) / values.sqrt()`` are the principal functions there.

        Raises:
            ShapeMismatch, NonFinite: If the kernel does not fit.
            ConfigError: If a component has eigenvalue 0: no new point has a coordinate along it.
        """
        n = self.vectors.shape[0]
        cross = checked_cross(kernel, n, 1).to(self.vectors.device)
        if float(self.values[-1]) == 0:
            kept = int((self.values > 0).sum())
            raise ConfigError(f"only {kept} of {len(self.values)} components have an eigenvalue above 0; ask for those")
        if self.column_means is not None and self.mean is not None:
            cross = cross - cross.mean(1, keepdim=True) - self.column_means + self.mean
        return cross @ self.vectors / (n * self.values).sqrt()


def kernel_pca(kernel: Tensor, components: int, *, center: bool = False, tolerance: float = TOLERANCE) -> KernelPCA:
    """Return the leading principal components of a kernel (n, n).

    Args:
        kernel: Training points with themselves, one output (shared; see `kernel_dynamics`).
        components: 1 to n.
        center: Subtract the mean of the features first.
        tolerance: As for `kernel_dynamics`.

    The sign of a component is fixed: its largest entry is positive.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`, or for a full kernel, or too many components.
        NotConverged: If Lanczos cannot resolve so many components of a large kernel.
    """
    gram = checked_gram(kernel, tolerance)
    if gram.block != 1:
        raise ShapeMismatch(
            f"the kernel has shape {tuple(kernel.shape)}; expected (n, n): take one output of it, or the mean kernel"
        )
    count, matrix = whole(components, "components", least=1), gram.entries
    if count > gram.examples:
        raise ConfigError(f"components is {count}; expected at most {gram.examples}, the number of examples")
    column_means, mean = None, None
    if center:
        column_means, mean = matrix.mean(0), matrix.mean()
        matrix = matrix - column_means[:, None] - column_means + mean
    values, vectors = leading_eigenpairs(Gram(matrix, gram.examples, gram.rounding), count, tolerance)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return KernelPCA(values / gram.examples, vectors * largest.sign(), column_means, mean)


def leading_eigenpairs(gram: Gram, count: int, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest eigenvalues, descending, rounding set to 0, and their vectors as columns.

    Raises:
        ConfigError: If all eigenvalues were computed and one is below 0 by more than ``tolerance``.
        NotConverged: If an iteration did not reach its accuracy.
    """
    matrix = gram.entries
    k = matrix.shape[0]
    if k <= _WHOLE or count > k // 6:
        values, vectors = spectrum(gram, tolerance)
        return values[:count], vectors[:, :count].contiguous()
    draw = generator(0, "kernels.pca")
    pairs = gram_pairs(matrix, count, _ACCURACY, lambda rows: _normal(rows, matrix, draw))
    if pairs.error > _ACCURACY:
        raise NotConverged(
            f"the {count} leading eigenvalues of a kernel of size {k} have error {pairs.error:.1e}, not "
            f"{_ACCURACY:.0e}; ask for fewer components, or for all"
        )
    return pairs.theta.where(pairs.theta > gram.rounding, 0.0), pairs.vectors.mT.contiguous()


def _normal(rows: int, like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(rows, like.shape[0], generator=draw, dtype=like.dtype, device="cpu").to(like.device)
