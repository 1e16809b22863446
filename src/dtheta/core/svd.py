"""Truncated SVD of one weight matrix: deterministic by seed, to an accuracy that is estimated and reported.

    W ~ U diag(S) V^T,   error = max_i |s_i - sigma_i| / max(sigma_i, sigma_1 / 100),
    residual = |W - U diag(S) V^T|_F / |W|_F

Routes, cheapest first; all of them end with a Rayleigh-Ritz step on W itself in float64, so the singular values depend
on the error of the subspace only to second order:

    gram     G = W W^T on the short side, then LAPACK or block Lanczos (core/gram.py)
    krylov   block Lanczos on W W^T by products with W (core/krylov.py); the choice for speed on large matrices
    full     LAPACK on W in float64

The accuracy is relative to each singular value, but never finer than a share of sigma_1 that float32 can hold. What
float32 cannot reach (the Gram matrix squares the condition) is done again in float64; what that cannot reach goes to
LAPACK. `TruncatedSVD.route` says what produced the result.

Differences from the fast SVD of PiSSA (Meng, Wang, Zhang 2024, arXiv 2404.02948) as peft runs it, which is
torch.svd_lowrank with as many columns as the rank: keyed random numbers instead of the global generator (a reload
gives the same factors), a stopping rule instead of a fixed number of iterations, Krylov space instead of powers.

The same request gives the same bits on one machine with one number of threads. The products and LAPACK share their sums
among threads (torch.set_num_threads, OMP_NUM_THREADS), and with another number of them the last bits differ; what must
hold elsewhere too allows for that (the probe of core/spectral.py).

Shape legend: W (m, n), U (m, r), S (r,), Vh (r, n); k the short side of W, l the long one; vectors inside are rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from dtheta.core.gram import gram_matrix, gram_pairs
from dtheta.core.krylov import FLOOR, KrylovBasis, RitzPairs, crowded, leading_pairs
from dtheta.core.seeds import generator, normal
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch, UnsupportedLayer

Route = Literal["auto", "gram", "krylov", "full"]
FAST = 1e-2  # what the fast mode aims at; torch.svd_lowrank with niter=16 leaves errors of 2e-2 on decaying spectra


@dataclass(frozen=True, eq=False)
class TruncatedSVD:
    """The leading singular triplets of a matrix W (m, n).

    ``U`` (m, r) and ``Vh`` (r, n) have orthonormal columns and rows, ``S`` (r,) descends. ``error`` estimates the
    largest relative error of a singular value (relative to sigma_1 / 100 where the value is below that), ``residual``
    is |W - U diag(S) Vh| / |W| in the Frobenius norm, ``route`` is what computed it: gram, krylov or full, with
    "float64" added where float32 was not enough.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    error: float
    residual: float
    route: str

    @property
    def rank(self) -> int:
        """Number of triplets."""
        return self.S.numel()

    def dense(self) -> Tensor:
        """Return U diag(S) Vh, (m, n)."""
        return (self.U * self.S) @ self.Vh

    def balanced(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return U diag(sqrt(S / c)) (m, r) and diag(sqrt(S / c)) Vh (r, n): c times their product is the matrix."""
        return balanced_factors(self.U, self.S / scale, self.Vh)

    def truncate(self, rank: int) -> TruncatedSVD:
        """Return the leading ``rank`` triplets.

        Raises:
            ConfigError: If there are fewer.
        """
        if not 1 <= rank <= self.rank:
            raise ConfigError(f"cannot take {rank} of {self.rank} singular triplets; ask for a rank in 1..{self.rank}")
        squares = self.S.double().square()
        kept, total = float(squares[:rank].sum()), float(squares.sum())
        share = kept / total * (1 - self.residual**2) if total > 0 else 1.0
        residual = max(0.0, 1 - share) ** 0.5
        return replace(self, U=self.U[:, :rank], S=self.S[:rank], Vh=self.Vh[:rank], residual=residual)


def balanced_factors(U: Tensor, S: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
    """Return U diag(sqrt(S)) (..., m, r) and diag(sqrt(S)) Vh (..., r, n): factors of one size of U diag(S) Vh."""
    root = S.sqrt()
    return U * root.unsqueeze(-2), root.unsqueeze(-1) * Vh


def truncated_svd(
    weight: Tensor, rank: int, *, accuracy: float | None = 1e-5, seed: int = 0, route: Route = "auto"
) -> TruncatedSVD:
    """Return the ``rank`` leading singular triplets of ``weight`` (m, n).

    Args:
        weight: A floating-point matrix on any device; it is not written to. Half precision is computed in float32,
            float64 in float64; the result has the precision of the computation.
        rank: Number of triplets, 1 to min(m, n).
        accuracy: Largest relative error of a singular value. None is the fast mode: it aims at 1e-2, which takes a
            quarter of the products of torch.svd_lowrank with niter=16 for smaller errors, and returns what it has
            also where it falls short; ``error`` reports the estimate.
        seed: Seed of the random start block. The result depends on it only within the accuracy; the global generators
            are neither read nor moved.
        route: See the module; "auto" goes on to the next route where one falls short, a named route raises then.

    The sign of a triplet is fixed: the largest entry of its right vector is positive.

    Raises:
        ShapeMismatch: For a tensor that is not a matrix.
        UnsupportedLayer: For integer, complex, sparse or meta tensors.
        ConfigError: For a rank, accuracy or route that is not possible.
        NonFinite: For NaN or infinity, or a singular value that the precision of the result cannot hold.
        NotConverged: If a route that was asked for by name does not reach the accuracy.
    """
    check_arguments(weight, rank, accuracy, route)
    with torch.inference_mode(), _plain_arithmetic(weight.device):
        # contiguous: how a matrix lies in memory is not part of it, and must not show in the last bits
        matrix = weight.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()
        scale = _scale(matrix)
        if scale == 0.0:
            return _zero(matrix, rank)
        scale = 1.0 if 1e-6 < scale < 1e6 else scale  # squares must neither overflow nor vanish
        found = _solve(matrix if scale == 1.0 else matrix / scale, rank, accuracy, seed, route)
    S = found.S * scale
    if not bool(torch.isfinite(S[0])):
        raise NonFinite(
            f"the largest singular value of the matrix of shape {tuple(weight.shape)}, "
            f"{float(found.S[0]) * scale:.3g}, is more than {S.dtype} holds; factor the matrix in float64, or scale it"
        )
    return replace(found, U=found.U.clone(), S=S, Vh=found.Vh.clone())  # no longer inference tensors


def full_svd(weight: Tensor) -> TruncatedSVD:
    """Return all min(m, n) singular triplets of ``weight`` (m, n), by LAPACK in float64; see `truncated_svd`."""
    return truncated_svd(weight, max(1, min(weight.shape, default=1)), accuracy=None, route="full")


def fix_signs(U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
    """Flip pairs of ``U`` (m, r) and ``Vh`` (r, n) so that the largest entry of each right vector is positive."""
    largest = Vh.gather(1, Vh.abs().argmax(1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(U.dtype)
    return U * signs.mT, Vh * signs


def check_arguments(weight: Tensor, rank: int, accuracy: float | None, route: str) -> None:
    """Raise what `truncated_svd` raises before it looks at the numbers."""
    shape = tuple(weight.shape)
    if weight.ndim != 2 or 0 in shape:
        raise ShapeMismatch(f"expected a matrix, got a tensor of shape {shape}; reshape it to two dimensions")
    if not weight.dtype.is_floating_point or weight.layout != torch.strided:
        kind = weight.dtype if weight.layout == torch.strided else weight.layout
        raise UnsupportedLayer(f"singular vectors need a dense floating-point matrix, got {kind} of shape {shape}")
    if weight.is_meta:
        raise UnsupportedLayer(f"the matrix of shape {shape} is on the meta device and holds no numbers; load it first")
    if not 1 <= rank <= min(shape):
        raise ConfigError(f"rank {rank} is not in 1..{min(shape)}, the possible ranks of a matrix of shape {shape}")
    if route not in get_args(Route):
        raise ConfigError(f"route {route!r} is none of {', '.join(get_args(Route))}")
    finest = 1e-12 if weight.dtype == torch.float64 else 1e-6
    if accuracy is not None and not finest <= accuracy < 1:
        raise ConfigError(
            f"accuracy {accuracy} is not in [{finest}, 1), what {weight.dtype} can hold; None is the fast mode"
        )


@contextlib.contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Keep autocast, and a lowered precision of float32 products, away from the sums inside."""
    precision = torch.get_float32_matmul_precision()
    try:
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)


def _scale(matrix: Tensor) -> float:
    low, high = torch.aminmax(matrix)
    scale = float(torch.maximum(high, -low))
    if not scale < float("inf"):
        raise NonFinite(f"the matrix of shape {tuple(matrix.shape)} holds NaN or infinity; no singular vectors exist")
    return scale


def _zero(matrix: Tensor, rank: int) -> TruncatedSVD:
    m, n = matrix.shape
    U, Vh = torch.eye(m, rank).to(matrix), torch.eye(rank, n).to(matrix)
    return TruncatedSVD(U, matrix.new_zeros(rank), Vh, 0.0, 0.0, "full")


def _solve(matrix: Tensor, rank: int, accuracy: float | None, seed: int, route: str) -> TruncatedSVD:
    """Go down the ladder of routes until one meets the accuracy; the fast mode takes what it gets."""
    target = accuracy or FAST
    aim = target / 2  # the other half is for rounding
    found = None
    for name in _ladder(min(matrix.shape), rank, accuracy, route):
        if name == "full":
            return _lapack(matrix, rank)
        for dtype in dict.fromkeys((matrix.dtype, torch.float64)):
            if dtype != torch.float64 and 32 * torch.finfo(dtype).eps > target:
                continue
            wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).to(dtype)
            pairs = {"gram": _gram, "krylov": _krylov}[name](wide, rank, aim, seed)
            label = name if dtype == matrix.dtype else f"{name} float64"
            found = _triplets(matrix, wide, pairs, label)
            if found.error <= target:
                return found
            if pairs.floor <= aim < pairs.error:  # stalled, and not for want of digits
                break
    assert found is not None
    if accuracy is None:
        return found
    raise NotConverged(
        f"route {route!r} reached a relative error of {found.error:.1e} in the singular values, asked for "
        f"{accuracy:.1e} (matrix of shape {tuple(matrix.shape)}, rank {rank}); use route='auto' or accuracy=None"
    )


def _ladder(short: int, rank: int, accuracy: float | None, route: str) -> tuple[str, ...]:
    if route == "full" or 2 * rank > short:  # with most of the triplets wanted, LAPACK is the cheapest exact way
        return ("full",)
    narrow = max(6 * rank, 256)  # below, the Krylov space would be most of the whole
    if route == "krylov" and short < narrow:
        raise ConfigError(f"route 'krylov' at rank {rank} needs a short side of at least {narrow}, not {short}")
    if route == "auto":
        return ("krylov",) if accuracy is None and short >= narrow else ("gram", "full")
    return (route,)


class _Draw:
    """Gaussian rows that depend on the seed, the shape of the matrix and their order alone."""

    def __init__(self, seed: int, like: Tensor) -> None:
        self.generator = generator(seed, f"truncated-svd/{like.shape[0]}x{like.shape[1]}")
        self.like = like

    def __call__(self, rows: int) -> Tensor:
        """Return rows (rows, k)."""
        return normal((rows, self.like.shape[0]), 1.0, self.generator).to(self.like)


def _gram(wide: Tensor, rank: int, accuracy: float, seed: int) -> RitzPairs:
    return gram_pairs(gram_matrix(wide), rank, accuracy, _Draw(seed, wide))


def _krylov(wide: Tensor, rank: int, accuracy: float, seed: int) -> RitzPairs:
    """Run block Lanczos; narrow blocks converge fastest, blocks of ``rank`` rows overlook nothing."""
    draw, narrow = _Draw(seed, wide), max(16, rank // 4)
    pairs = _lanczos(wide, rank, accuracy, draw, narrow)
    return _lanczos(wide, rank, accuracy, draw, rank) if crowded(pairs.theta, narrow) else pairs


def _lanczos(wide: Tensor, rank: int, accuracy: float, draw: _Draw, block: int) -> RitzPairs:
    first = max(3 * rank, 4 * block)
    basis = KrylovBasis(lambda rows: (rows @ wide) @ wide.mT, draw(block), draw, capacity=first + max(rank, block))
    return leading_pairs(basis, rank, accuracy, first, keep=3 * rank // 2)


def _triplets(matrix: Tensor, wide: Tensor, pairs: RitzPairs, route: str) -> TruncatedSVD:
    """Rayleigh-Ritz on W: the exact SVD of (projection on the span of the Ritz vectors) W."""
    image = pairs.vectors @ wide  # (r, l): S Vh up to a rotation
    P, S, Vh = _small_svd(image)
    left = (P.to(wide.dtype).mT @ pairs.vectors).mT
    spread = float(S[0] / S[-1].clamp(min=FLOOR * float(S[0])))
    rounding = torch.finfo(wide.dtype).eps * (16 + 0.5 * spread) + torch.finfo(matrix.dtype).eps
    U, Vh = (left, Vh) if wide.shape == matrix.shape else (Vh.mT, left.mT)
    return _finished(matrix, U, S, Vh, pairs.error + rounding, route)


def _small_svd(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a matrix (r, l) of few, nearly orthogonal rows.

    The rows are scaled to length 1 before their Gram matrix is formed, so its rounding is relative to each pair of
    rows and float32 is enough; its eigenvectors are found in float64.
    """
    norms = torch.linalg.vector_norm(image, dim=1, dtype=torch.float64)
    if not float(norms.min()) > FLOOR * float(norms.max()):
        return torch.linalg.svd(image.double(), full_matrices=False)
    rows = image / norms.to(image.dtype)[:, None]
    energies, P = torch.linalg.eigh((rows @ rows.mT).double() * norms * norms[:, None])
    S, P = energies.flip(0).sqrt(), P.flip(1)
    return P, S, (P / S).to(image.dtype).mT @ image


def _lapack(matrix: Tensor, rank: int) -> TruncatedSVD:
    U, S, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return _finished(matrix, U[:, :rank], S[:rank], Vh[:rank], torch.finfo(matrix.dtype).eps, "full")


def _finished(matrix: Tensor, U: Tensor, S: Tensor, Vh: Tensor, error: float, route: str) -> TruncatedSVD:
    U, Vh = fix_signs(U.to(matrix.dtype), Vh.to(matrix.dtype))
    residual = _residual(matrix, U, S, Vh)
    return TruncatedSVD(U.contiguous(), S.to(matrix.dtype), Vh.contiguous(), error, residual, route)


def _residual(matrix: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> float:
    """Return |W - U S Vh| / |W|: by Pythagoras, or by the difference where that would cancel."""
    total = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    left = 1 - float(S.double().square().sum()) / total
    if left > 1e-3:
        return left**0.5
    rest = torch.linalg.vector_norm(matrix - (U * S.to(U.dtype)) @ Vh, dtype=torch.float64)
    return float(rest) / total**0.5
