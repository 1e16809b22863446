"""Quantization: how a weight becomes four bits and, beside them, a low-rank displacement that makes up for the loss.

    W ~ Q + L R,   Q = dequantize(NF4(.)) the frozen base,   L (m, r), R (r, n) the start of the adapter

    QPiSSA  R0 = W;     T times:  L R = best rank r of R_t,     Q = NF4(W - L R),   R_{t+1} = W - Q
    LoftQ   L R = 0;    T times:  Q = NF4(W - L R),             L R = best rank r of W - Q
    NF4     Q = NF4(W) and no displacement (QLoRA)
    BestQ   the one of these with the smallest measured error, matrix by matrix

QPiSSA: Meng, Wang and Zhang 2024, arXiv 2404.02948 (T = 5). LoftQ: Li et al. 2023, arXiv 2310.08659 (T = 5). Both
repeat the same two steps. QPiSSA enters with the principal directions, which keeps outliers away from the four bits,
and leaves before its factors see the last rounding; LoftQ enters with nothing, and leaves with fitted factors. On
weights with strong directions QPiSSA is far ahead, on flat spectra LoftQ is: hence BestQ.

``QPiSSA(refit=True)``, not in the paper, fits the factors once more at the end. By Eckart and Young that lowers, or
keeps, every unitarily invariant norm of the error, so it is what BestQ tries in the place of plain QPiSSA.

These are arguments of ``dt.quantize`` and no ``Method``: a method makes a delta on a base that is given, and these make
the base as well.

Shape legend: W (m, n), r rank, T iterations.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dtheta.core.nf4 import PackedNF4, quantize_nf4
from dtheta.core.seeds import generator, uniform
from dtheta.core.svd import truncated_svd
from dtheta.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Split:
    """A weight in two parts.

    Attributes:
        packed: Q in four bits.
        left: L (m, r) float32, or None where there is no displacement.
        right: R (r, n) float32, or None.
        method: Name of the quantization that made it.
        candidates: What it was chosen from, if from several: errors by name.
    """

    packed: PackedNF4
    left: Tensor | None = None
    right: Tensor | None = None
    method: str = "NF4"
    candidates: dict[str, Errors] = field(default_factory=dict)

    def error(self, weight: Tensor) -> Tensor:
        """Return W - (Q + L R), float32, with Q rounded to the dtype of the weight as the model will see it."""
        error = weight.float() - self.packed.dequantize(weight.dtype).float()
        return error if self.left is None or self.right is None else error.addmm_(self.left, self.right, alpha=-1)


@dataclass(frozen=True)
class Errors:
    """Norms of W - (Q + L R): Frobenius, and nuclear (the sum of the singular values) or NaN where not asked for."""

    frobenius: float
    nuclear: float = math.nan

    @classmethod
    def of(cls, error: Tensor, nuclear: bool = True) -> Errors:
        """Return the norms of an error matrix."""
        frobenius = float(torch.linalg.vector_norm(error, dtype=torch.float64))
        return cls(frobenius, nuclear_norm(error) if nuclear else math.nan)


def nuclear_norm(matrix: Tensor) -> float:
    """Return the sum of the singular values, from the Gram matrix of the short side in float64.

    Squaring costs nothing here: what is below 1e-8 of the largest singular value does not show in the sum.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().mT
    return float(torch.linalg.eigvalsh(wide @ wide.mT).clamp(min=0).sqrt().sum())


class Quantization(ABC):
    """How a weight is split. Subclasses are frozen dataclasses; their fields are the configuration.

    ``block`` elements share a scale, which ``double`` stores in 8 bits; see ``core.nf4``.
    """

    block: int
    double: bool
    #: Rank of the displacement, or None for a quantization without one.
    rank: int | None = None
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """Name: that of the class."""
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        """Return name and fields, as stored in a file."""
        return {"name": self.name, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @abstractmethod
    def split(self, weight: Tensor, seed: int, name: str) -> Split:
        """Return the two parts of a weight (m, n).

        Args:
            weight: The matrix, in the dtype of the model.
            seed: Key of every random start.
            name: Name of the parameter, for keyed draws.
        """

    def pack(self, weight: Tensor) -> PackedNF4:
        """Return a matrix in four bits."""
        return quantize_nf4(weight, self.block, self.double)


@dataclass(frozen=True)
class NF4(Quantization):
    """Four bits and nothing else: the base of QLoRA, to attach any method to.

    Attributes:
        block: Elements that share a scale.
        double: Whether the scales are stored in 8 bits.
    """

    block: int = 64
    double: bool = False
    summary: ClassVar[str] = "four bits an element"
    paper: ClassVar[str] = "2305.14314"

    def split(self, weight: Tensor, seed: int, name: str) -> Split:
        """Return the packed weight."""
        return Split(self.pack(weight))


@dataclass(frozen=True)
class QPiSSA(Quantization):
    """Quantized PiSSA: the principal part is the adapter, and only the rest is rounded.

    Attributes:
        rank: r.
        iterations: T.
        refit: Whether the factors are fitted once more after the last rounding.
        accuracy: As in LoftQ.
        block: Elements that share a scale.
        double: Whether the scales are stored in 8 bits.
    """

    rank: int = 16
    iterations: int = 5
    refit: bool = False
    accuracy: float | None = 1e-3
    block: int = 64
    double: bool = False
    summary: ClassVar[str] = "four bits for what the principal directions leave"
    paper: ClassVar[str] = "2404.02948"

    def split(self, weight: Tensor, seed: int, name: str) -> Split:
        """Return the parts after T rounds."""
        _check_iterations(self.iterations)
        whole = weight.float()
        rest = whole
        for _ in range(self.iterations):
            left, right = best_product(rest, self.rank, self.accuracy, seed)
            packed = self.pack(torch.addmm(whole, left, right, alpha=-1))
            rest = whole - packed.dequantize(weight.dtype).float()
        if self.refit:
            left, right = best_product(rest, self.rank, self.accuracy, seed)
        return Split(packed, left, right, self.name)


@dataclass(frozen=True)
class LoftQ(Quantization):
    """LoftQ: round, then fit the factors to the error, again and again.

    Attributes:
        rank: r.
        iterations: T.
        accuracy: Relative accuracy of the singular values in every round, whose square is that of the energy that the
            factors take; None for the fast sketch, which large matrices may want.
        block: Elements that share a scale.
        double: Whether the scales are stored in 8 bits.
    """

    rank: int = 16
    iterations: int = 5
    accuracy: float | None = 1e-3
    block: int = 64
    double: bool = False
    summary: ClassVar[str] = "four bits, and factors fitted to their error"
    paper: ClassVar[str] = "2310.08659"

    def split(self, weight: Tensor, seed: int, name: str) -> Split:
        """Return the parts after T rounds."""
        _check_iterations(self.iterations)
        whole = weight.float()
        packed = self.pack(whole)
        left, right = best_product(whole - packed.dequantize(weight.dtype).float(), self.rank, self.accuracy, seed)
        for _ in range(self.iterations - 1):
            packed = self.pack(torch.addmm(whole, left, right, alpha=-1))
            left, right = best_product(whole - packed.dequantize(weight.dtype).float(), self.rank, self.accuracy, seed)
        return Split(packed, left, right, self.name)


@dataclass(frozen=True)
class BestQ(Quantization):
    """The quantization with the smallest measured error, chosen matrix by matrix.

    The candidates are NF4 with a zero displacement (a LoRA start of the same rank), QPiSSA with refitted factors, and
    LoftQ. The Frobenius norm is the error of the output for inputs without a preferred direction, and inputs that have
    one may rank the candidates otherwise; the nuclear norm is the measure of the QPiSSA paper.

    Attributes:
        rank: r.
        iterations: T of QPiSSA and LoftQ.
        by: The norm that decides.
        accuracy: As in LoftQ.
        block: Elements that share a scale.
        double: Whether the scales are stored in 8 bits.
    """

    rank: int = 16
    iterations: int = 5
    by: Literal["frobenius", "nuclear"] = "frobenius"
    accuracy: float | None = 1e-3
    block: int = 64
    double: bool = False
    summary: ClassVar[str] = "the best of NF4, QPiSSA and LoftQ for each matrix"

    def split(self, weight: Tensor, seed: int, name: str) -> Split:
        """Return the candidate of the smallest error."""
        if self.by not in ("frobenius", "nuclear"):
            raise ConfigError(f"by must be 'frobenius' or 'nuclear', found {self.by!r}")
        packing: dict[str, Any] = {"block": self.block, "double": self.double}
        fitting = {"rank": self.rank, "iterations": self.iterations, "accuracy": self.accuracy, **packing}
        tried = [
            _with_zero_start(NF4(**packing).split(weight, seed, name), self.rank, seed, name),
            QPiSSA(refit=True, **fitting).split(weight, seed, name),
            LoftQ(**fitting).split(weight, seed, name),
        ]
        errors = [Errors.of(split.error(weight), nuclear=self.by == "nuclear") for split in tried]
        best = min(range(len(tried)), key=lambda i: getattr(errors[i], self.by))
        return dataclasses.replace(tried[best], candidates={s.method: e for s, e in zip(tried, errors, strict=True)})


def _with_zero_start(split: Split, rank: int, seed: int, name: str) -> Split:
    """Return a split with a displacement of zero that can be trained: LoRA's start."""
    m, n = split.packed.shape
    bound = 1 / math.sqrt(n)
    right = uniform((rank, n), -bound, bound, generator(seed, f"BestQ/{name}"))
    device = split.packed.device
    return dataclasses.replace(split, left=right.new_zeros(m, rank).to(device), right=right.to(device))


def best_product(matrix: Tensor, rank: int, accuracy: float | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return U sqrt(S) (m, r) and sqrt(S) V^T (r, n), the best product of that rank."""
    return truncated_svd(matrix, rank, accuracy=accuracy, seed=seed).balanced()


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise ConfigError(f"iterations must be at least 1, found {iterations}")
