"""Selection of the largest entries of vectors that are never held whole: slab by slab, exactly.

    threshold   over all vectors together, or of each; visits the slabs two or three times, float64 up to four
    planes      one more visit; on it, the magnitudes of the kept entries are summed, which any scale may need

A dense vector is one slab on its own memory. The slabs of other vectors are assembled in float64 and rounded once, the
same numbers as ``change.dense()``, and made anew at every visit.

Shape legend: R rows of a vector, with a scale each or one together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from dtheta.core.assembled import assembled
from dtheta.core.change import Change, Dense, matrix_shape, slabs
from dtheta.core.naming import naming
from dtheta.core.plane_products import dots
from dtheta.core.planes import Planes, concatenate
from dtheta.core.ternary import Ternary, ternary
from dtheta.core.topk import Threshold, select_rows, selected, threshold

Per = Literal["delta", "tensor", "row"]


@dataclass(frozen=True, eq=False)
class Vector:
    """One vector and the signs of its kept entries.

    Attributes:
        name: Parameter, and which of its vectors.
        values: The entries, as a change of the vector's own shape.
        planes: Signs of the kept entries.
        sums: Sum of the magnitudes of the kept entries, of each row (R,) or of the vector (1,); float64.
    """

    name: str
    values: Change
    planes: Planes
    sums: Tensor

    @cached_property
    def counts(self) -> Tensor:
        """Numbers of kept entries that are not zero, of the rows or vector that ``sums`` is of."""
        if self.sums.numel() == 1:
            return torch.tensor([self.planes.count])
        return self.ternary(torch.ones(())).row_counts()

    def ternary(self, scale: Tensor) -> Ternary:
        """Return the ternary change with a scale, () or (R,)."""
        return ternary(self.planes, scale, tuple(self.values.shape), self.values.device)


def select(named: Mapping[str, Change], density: float, per: Per) -> Iterator[Vector]:
    """Yield the vectors in order, each with the signs of its kept entries.

    Raises:
        NonFinite: If a vector holds NaN or infinity; the message names it.
    """
    if per == "delta":
        together = _Slabs(named)
        yield from _joined(together, threshold(together, density=density))
        return
    for name, values in named.items():
        alone = _Slabs({name: values})
        if per == "row":
            yield _by_row(name, values, alone, density)
        else:
            yield from _joined(alone, threshold(alone, density=density))


def _by_row(name: str, values: Change, alone: _Slabs, density: float) -> Vector:
    """Select from every row; a slab has whole rows."""
    planes, sums = [], []
    for part in alone.values():
        rows = part.reshape(1, -1) if len(values.shape) < 2 else part
        planes.append(naming(name, lambda rows=rows: select_rows(rows, density=density)))
        sums.append(_magnitudes(rows, planes[-1], rows.shape[1]))
    rows = 1 if len(values.shape) < 2 else values.shape[0]
    return Vector(name, values, _one(planes), torch.cat([*sums, torch.zeros(0, dtype=torch.float64)])[:rows])


def _joined(source: _Slabs, found: Threshold) -> Iterator[Vector]:
    """Yield the vectors of the slabs that are kept by a threshold."""
    planes: list[Planes] = []
    total = 0.0
    order = [(key, name, values) for key, (name, values, _, _) in source.places.items()]
    chosen = selected(source, found)
    for i, (key, name, values) in enumerate(order):
        planes.append(next(chosen)[1])
        total += float(_magnitudes(source[key], planes[-1], None))
        if i + 1 == len(order) or order[i + 1][1] != name:
            yield Vector(name, values, _one(planes), torch.tensor([total], dtype=torch.float64))
            planes, total = [], 0.0
    next(chosen, None)  # past its end, where it compares what it kept with what it was to keep


def _magnitudes(part: Tensor, planes: Planes, span: int | None) -> Tensor:
    """Return the sums of magnitudes of kept entries: the inner product with their signs."""
    if not part.numel():
        return torch.zeros(1 if span is None else part.shape[0], dtype=torch.float64)
    found: Any = dots(part, [planes], span=span)[0]
    return torch.as_tensor(found, dtype=torch.float64).reshape(-1)


def _one(planes: Sequence[Planes]) -> Planes:
    return planes[0] if len(planes) == 1 else concatenate(planes)


class _Slabs(Mapping[str, Tensor]):
    """The slabs of vectors by name, each made when it is asked for; the last one is held."""

    def __init__(self, vectors: Mapping[str, Change]) -> None:
        self.places: dict[str, tuple[str, Change, int, int]] = {}
        for name, values in vectors.items():
            rows, columns = matrix_shape(values.shape)
            whole = isinstance(values, Dense) or not rows
            ranges = [(0, rows)] if whole else slabs(rows, columns, values.device)
            for start, stop in ranges:
                key = name if (start, stop) == (0, rows) else f"{name}[{start}:{stop}]"
                self.places[key] = (name, values, start, stop)
        self._held: tuple[str, Tensor] | None = None

    def __getitem__(self, key: str) -> Tensor:
        if self._held is None or self._held[0] != key:
            name, values, start, stop = self.places[key]
            self._held = (key, naming(name, lambda: _slab(values, start, stop)))
        return self._held[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def slabs_of(values: Change) -> Iterator[Tensor]:
    """Yield the entries of a change as (rows, n) matrices on the CPU: the same numbers as ``values.dense()``."""
    if isinstance(values, Dense):
        yield values.matrix().cpu()
        return
    rows, columns = matrix_shape(values.shape)
    for start, stop in slabs(rows, columns, values.device):
        yield _slab(values, start, stop)


def _slab(values: Change, start: int, stop: int) -> Tensor:
    if isinstance(values, Dense):
        return values.matrix().cpu()
    return assembled(values, start, stop).to(values.dtype).cpu()
