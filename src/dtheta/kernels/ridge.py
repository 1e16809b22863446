"""Ridge regression from sums over batches: everything that least squares needs to know of the data, in one pass.

    G = sum_i p_i p_i^T,   C = sum_i p_i y_i^T,   U = argmin sum_i |y_i - U p_i - c|^2 + lambda |U|^2

With an intercept c, which is never penalized, p_i carries a leading 1; eliminating it centers the sums exactly:
G <- G - s s^T / n with s = sum_i p_i. Memory is O(W^2 + W D), however many examples there are; sums of parts of the
data add up to those of the whole, and the sums of some of the features are a part of those of all.

All sums run in float64: the Gram matrix squares the condition of the features.

Shape legend: N examples, W features, D outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.core.gram import gram_matrix
from dtheta.core.memory import physical_memory
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.kernels.ridge_path import RidgeFit, RidgePath


def require_memory(width: int) -> None:
    """Raise where the sums over so many features, and those of a batch that are added, cannot be held.

    Raises:
        ConfigError: If this machine has less memory than both take.
    """
    memory, least = physical_memory(), 2 * 8 * width**2
    if memory is not None and least > memory:
        raise ConfigError(
            f"the sums of a fit on {width} features take {least:.1e} bytes, and this machine has {memory:.1e}; choose "
            "a smaller width"
        )


class Ridge:
    """Sums for a ridge regression of D outputs on W features.

    Attributes:
        width: W.
        outputs: D.
        intercept: Whether a constant is fitted too, without penalty.
        count: Examples seen.
    """

    def __init__(
        self, width: int, outputs: int, *, intercept: bool = True, device: torch.device | str | None = None
    ) -> None:
        """Begin with no examples.

        Raises:
            ConfigError: If a width is no positive whole number, or the sums are larger than memory.
        """
        self.width, self.outputs = whole(width, "width", 1), whole(outputs, "outputs", 1)
        if device is None or torch.device(device).type == "cpu":
            require_memory(self.width)
        self.intercept = intercept
        self.count = 0
        size = self.width + intercept
        self._gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._cross = torch.zeros(size, self.outputs, dtype=torch.float64, device=device)
        self._squares = torch.zeros(self.outputs, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, features: Float[Tensor, "... W"], targets: Float[Tensor, "... D"]) -> Ridge:
        """Add examples, one a row; leading dimensions are examples too. Returns itself.

        Raises:
            ShapeMismatch: If the features or targets have other widths than these sums, or differ in number.
            NonFinite: If one is NaN or infinite; the sums are then as before.
        """
        P_NW = rows(features, self.width, "features").to(self._gram)
        Y_ND = rows(targets, self.outputs, "targets").to(self._gram)
        if len(P_NW) != len(Y_ND):
            raise ShapeMismatch(f"{len(P_NW)} rows of features and {len(Y_ND)} rows of targets; expected as many")
        if self.intercept:
            P_NW = torch.cat([P_NW.new_ones(len(P_NW), 1), P_NW], 1)
        gram, cross, squares = gram_matrix(P_NW.mT), P_NW.mT @ Y_ND, Y_ND.square().sum(0)
        if not all(bool(part.isfinite().all()) for part in (gram.diagonal(), squares)):
            raise NonFinite("a feature or a target is NaN or infinite, or its square is; nothing was added")
        self._gram += gram
        self._cross += cross
        self._squares += squares
        self.count += len(P_NW)
        return self

    def merge(self, other: Ridge) -> Ridge:
        """Add the examples of other sums. Returns itself.

        Raises:
            ShapeMismatch: If they are sums of other features.
        """
        mine, theirs = ((r.width, r.outputs, r.intercept) for r in (self, other))
        if mine != theirs:
            raise ShapeMismatch(f"sums of (width, outputs, intercept) = {theirs} cannot be added to those of {mine}")
        self._gram += other._gram
        self._cross += other._cross
        self._squares += other._squares
        self.count += other.count
        return self

    def take(self, columns: Tensor | Sequence[int]) -> Ridge:
        """Return the sums of some of the features, in that order: as if only those had been added."""
        index = torch.as_tensor(columns, dtype=torch.int64, device=self._gram.device)
        found = Ridge(index.numel(), self.outputs, intercept=self.intercept, device=self._gram.device)
        if self.intercept:
            index = torch.cat([index.new_zeros(1), index + 1])
        found._gram, found._cross = self._gram[index][:, index], self._cross[index]
        found._squares, found.count = self._squares.clone(), self.count
        return found

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the means of features (W,) and targets (D,); zeros without an intercept, which centers nothing."""
        self._require_examples()
        if not self.intercept:
            return self._gram.new_zeros(self.width), self._gram.new_zeros(self.outputs)
        return self._gram[0, 1:] / self.count, self._cross[0] / self.count

    def centered(self) -> tuple[Float[Tensor, "W W"], Float[Tensor, "W D"], Float[Tensor, " D"]]:
        """Return G, C and sum_i y_i^2 with the intercept eliminated."""
        mean_W, mean_D = self.means()
        if not self.intercept:
            return self._gram, self._cross, self._squares
        sums_W = self._gram[0, 1:]
        gram = torch.addr(self._gram[1:, 1:], sums_W, mean_W, alpha=-1)
        cross = torch.addr(self._cross[1:], sums_W, mean_D, alpha=-1)
        return gram, cross, (self._squares - self.count * mean_D.square()).clamp(min=0)

    def path(self) -> RidgePath:
        """Return the eigendecomposition of G, from which every lambda is cheap."""
        gram, cross, total = self.centered()
        values, vectors = torch.linalg.eigh(gram)
        return RidgePath(
            values.clamp(min=0), vectors, vectors.mT @ cross, total, self.count, *self.means(), self.intercept
        )

    def solve(self, ridge: float | None = None) -> RidgeFit:
        """Return the weights of least penalized error.

        Args:
            ridge: lambda, in units of G; None chooses it by generalized cross-validation (one eigendecomposition).

        Raises:
            ConfigError: For a negative ridge, or before any example was added.
            NotConverged: If the features depend on one another so nearly that ``ridge`` does not make G definite.
        """
        self._require_examples()
        if ridge is None:
            path = self.path()
            return path.fit(path.best(path.generalized()))
        return self._cholesky(checked_ridge(ridge))

    def _cholesky(self, ridge: float) -> RidgeFit:
        gram, cross, total = self.centered()
        gram = gram.clone()
        gram.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(gram)
        if int(info) or float((factor.diagonal().square() / gram.diagonal()).min()) < _ROUNDING:
            largest = float(gram.diagonal().max()) or 1.0  # all features are constant
            raise NotConverged(
                f"the Gram matrix of {self.width} features over {self.count} examples is singular at ridge={ridge:g}: "
                f"they depend on one another. Give a larger ridge, such as {1e-10 * largest:.0e}, or None to have it "
                "chosen"
            )
        weight_WD = torch.cholesky_solve(cross, factor)
        mean_W, mean_D = self.means()
        fit = RidgeFit(weight_WD.mT.contiguous(), mean_D - mean_W @ weight_WD, ridge, math.nan)
        return replace(fit, error=self.residual(fit) / max(float(total.sum()), _TINY))

    def residual(self, fit: RidgeFit) -> float:
        """Return sum_i |y_i - U p_i - c|^2 for any weights, such as those fitted to other examples.

        Below about 1e-14 of sum_i |y_i|^2 only rounding is left.
        """
        weight = torch.cat([fit.bias[:, None], fit.weight], 1) if self.intercept else fit.weight
        explained = 2 * (weight * self._cross.mT).sum() - ((weight @ self._gram) * weight).sum()
        return max(0.0, float(self._squares.sum() - explained))

    def _require_examples(self) -> None:
        if self.count == 0:
            raise ConfigError("no examples were added; add(features, targets) first")


_TINY = torch.finfo(torch.float64).tiny
_ROUNDING = 1e-14  # share of a feature outside the span of those before it that is rounding


def checked_ridge(ridge: float) -> float:
    """Return lambda.

    Raises:
        ConfigError: If it is no number of at least 0.
    """
    found = number(ridge, "ridge")
    if found < 0:
        raise ConfigError(f"ridge is {found:g}; expected 0 or more")
    return found


def rows(values: Tensor, width: int, what: str) -> Float[Tensor, "N width"]:
    """Return values of shape (..., width) as rows, detached.

    Raises:
        ShapeMismatch: For another width.
    """
    if values.ndim == 0 or values.shape[-1] != width:
        raise ShapeMismatch(f"{what} have shape {tuple(values.shape)}; expected (..., {width})")
    return values.detach().reshape(-1, width)
