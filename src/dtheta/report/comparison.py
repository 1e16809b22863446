"""Comparison: how alike deltas of one base are, as plain records: in direction, and in the signs of their entries.

    cosine_ij     <D_i, D_j> / (|D_i| |D_j|)
    conflict_ij   share of the entries where both move that they move against each other; about one half if unrelated

over all compared parameters, and over those of each numbered layer.

Shape legend: M deltas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.agreement import sign_agreement
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.products import inner
from dtheta.core.selection import layer_index
from dtheta.errors import BaseMismatch, ConfigError

Matrix = tuple[tuple[float | None, ...], ...]
OTHER = "other"  # parameters outside of numbered layers


@dataclass(frozen=True)
class Alike:
    """How alike deltas are on some parameters; None where there is no angle, or no entry that both move.

    Attributes:
        name: Of the parameters: a layer's number, or "all".
        norms: Euclidean norm of each delta there (M,).
        cosines: (M, M).
        conflicts: (M, M), in [0, 1].
        both: Entries that both move (M, M).
    """

    name: str
    norms: tuple[float, ...]
    cosines: Matrix
    conflicts: Matrix
    both: tuple[tuple[int, ...], ...]

    def pairs(self, matrix: Matrix) -> list[float]:
        """Return the known values of a matrix above its diagonal."""
        return [v for i, row in enumerate(matrix) for v in row[i + 1 :] if v is not None]


@dataclass(frozen=True)
class Comparison:
    """Deltas by name, how alike they are as a whole, and layer by layer."""

    names: tuple[str, ...]
    whole: Alike
    layers: tuple[Alike, ...]


@dataclass
class _Sums:
    """Inner products, agreeing and conflicting signs (M, M), added up over parameters."""

    gram: Tensor
    agree: Tensor
    conflict: Tensor

    @classmethod
    def zero(cls, count: int) -> _Sums:
        square = (count, count)
        signs = (torch.zeros(square, dtype=torch.int64) for _ in range(2))
        return cls(torch.zeros(square, dtype=torch.float64), *signs)

    def add(self, other: _Sums) -> None:
        self.gram += other.gram
        self.agree += other.agree
        self.conflict += other.conflict

    def alike(self, name: str) -> Alike:
        norms = self.gram.diagonal().clamp(min=0.0).sqrt().tolist()
        both = self.agree + self.conflict
        return Alike(
            name,
            tuple(norms),
            tuple(tuple(_cosine(self.gram, norms, i, j) for j in range(len(norms))) for i in range(len(norms))),
            tuple(
                tuple(int(c) / int(b) if int(b) else None for c, b in zip(*rows, strict=True))
                for rows in zip(self.conflict, both, strict=True)
            ),
            tuple(tuple(row) for row in both.tolist()),
        )


def _cosine(gram: Tensor, norms: Sequence[float], i: int, j: int) -> float | None:
    if not (norms[i] > 0 and norms[j] > 0):
        return None
    return 1.0 if i == j else max(-1.0, min(1.0, float(gram[i, j]) / norms[i] / norms[j]))


def compare(names: Sequence[str], deltas: Sequence[Delta]) -> Comparison:
    """Compare deltas of one base; a parameter that a delta does not change counts as zero there.

    Raises:
        ConfigError: If there are fewer than two, or a spectral change is not bound.
        BaseMismatch: If they are of different bases.
        ShapeMismatch: If they disagree on a shape.
    """
    if len(deltas) < 2 or len(names) != len(deltas):
        raise ConfigError(f"comparing takes two deltas or more, each with a name; found {len(deltas)}, {len(names)}")
    require_one_base(deltas)
    whole, layers = _Sums.zero(len(deltas)), dict[str, _Sums]()
    for name, found in _by_parameter(deltas):
        whole.add(found)
        index = layer_index(name)
        layers.setdefault(OTHER if index is None else str(index), _Sums.zero(len(deltas))).add(found)
    order = sorted(layers, key=lambda name: math.inf if name == OTHER else int(name))
    return Comparison(tuple(names), whole.alike("all"), tuple(layers[name].alike(name) for name in order))


def require_one_base(deltas: Sequence[Delta]) -> None:
    """Raise unless no two deltas were made on tensors of different content.

    Raises:
        BaseMismatch: Naming a tensor that differs.
    """
    digests: dict[str, str] = {}
    for delta in deltas:
        for name, digest in delta.base.digests.items():
            if digests.setdefault(name, digest) != digest:
                raise BaseMismatch(
                    f"these deltas were made on different bases: {name} differs between them; only deltas of one base "
                    "can be compared"
                )


def _by_parameter(deltas: Sequence[Delta]) -> Iterator[tuple[str, _Sums]]:
    for name in dict.fromkeys(name for delta in deltas for name in delta):
        found = _Sums.zero(len(deltas))
        there = [i for i, delta in enumerate(deltas) if name in delta]
        changes = [deltas[i][name] for i in there]
        index = torch.tensor(there)
        found.gram[index[:, None], index] = _gram(changes)
        found.agree[index[:, None], index], found.conflict[index[:, None], index] = sign_agreement(changes)
        yield name, found


def _gram(changes: Sequence[Change]) -> Tensor:
    gram = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for i, a in enumerate(changes):
        for j, b in enumerate(changes[: i + 1]):
            gram[i, j] = gram[j, i] = inner(a, b)
    return gram
