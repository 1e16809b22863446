"""Merges entry by entry: several vectors through their sieves and joined to one, slab by slab.

    y_e = join_i( w_i x_i,e where sieve i keeps e, else 0 )

A slab of each vector is held at a time, whatever its form, so no dense copy of all of them exists. Entries are weighted
and joined in float64 and rounded once. Parameters are gone through in the order of their names, since a sieve over a
whole delta must meet its entries in the order in which its threshold was found.

Shape legend: M vectors, B entries of a range; m rows, n columns of a parameter seen as a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dtheta.compose.coefficients import blocks
from dtheta.compose.sieves import Sieve, loops
from dtheta.core.assembled import assembled
from dtheta.core.change import Change, Dense, matrix_shape, slabs
from dtheta.core.combination import add
from dtheta.core.delta import Delta
from dtheta.core.flat import flat
from dtheta.core.naming import naming
from dtheta.core.planes import trusted
from dtheta.core.ternary import Ternary, ternary
from dtheta.errors import NonFinite

#: (M weighted vectors (M, B) float64, (B,) to write to)
Join: TypeAlias = Callable[[NDArray[np.float64], NDArray[Any]], None]
_RANGE = 1 << 14  # entries that are joined at once: with their float64 copies they stay in the second cache level


@dataclass(frozen=True, eq=False)
class Term:
    """One vector of a parameter: its change, its sieve, and what its entries are multiplied with."""

    change: Change
    sieve: Sieve
    coefficient: float


def by_name(deltas: Sequence[Delta], merged: Callable[[str, dict[int, Change]], Change]) -> dict[str, Change]:
    """Return a change of every parameter, made in the order of names from the changes of it by the delta's number."""
    names = blocks(deltas)
    made = {}
    for name in sorted(names):
        found = {i: delta[name] for i, delta in enumerate(deltas) if name in delta}
        made[name] = naming(name, lambda name=name, found=found: merged(name, found))
    return {name: made[name] for name in names}


def joined(terms: Sequence[Term], join: Join) -> Dense:
    """Return the change whose entries join those of the terms; float64 if one of them is.

    Raises:
        NonFinite: If an entry is not finite, or becomes so.
    """
    first = terms[0].change
    rows, columns = matrix_shape(first.shape)
    wide = any(term.change.dtype == torch.float64 for term in terms)
    result = np.empty(rows * columns, np.float64 if wide else np.float32)
    buffer = np.empty(len(terms) * _RANGE)
    for start, stop in slabs(rows, columns):
        parts = [slab(term.change, start, stop) for term in terms]
        for low in range(0, parts[0].size, _RANGE):
            here = start * columns + low
            lines = [part[low : low + _RANGE] for part in parts]
            x_MB = buffer[: len(terms) * lines[0].size].reshape(len(terms), -1)
            for term, line, x_B in zip(terms, lines, x_MB, strict=True):
                term.sieve(line, here, term.coefficient, x_B)
            out = result[here : here + lines[0].size]
            join(x_MB, out)
            if not np.isfinite(out).all():
                raise NonFinite(f"the merge overflows {out.dtype} among the entries {here} ... {here + out.size - 1}")
    return Dense(torch.from_numpy(result).reshape(first.shape).to(first.device))


def summed(terms: Sequence[Term]) -> Change:
    """Return the sum of what the sieves leave: a sum of ternary changes where all terms are, else dense.

    Raises:
        NonFinite: If an entry is not finite, or becomes so.
    """
    signs = [(t.change, t) for t in terms if isinstance(t.change, Ternary) and t.change.device.type == "cpu"]
    if len(signs) == len(terms):
        return add([sifted(change, term.sieve, term.coefficient) for change, term in signs])
    return joined(terms, loops().total)


def sifted(change: Ternary, sieve: Sieve, coefficient: float = 1.0) -> Ternary:
    """Return the ternary change of the kept signs, its scale multiplied and rounded once.

    Raises:
        NonFinite: If the scale is not finite, or becomes so.
    """
    kept = [x_B != 0 for x_B in _through(change, sieve)]
    mask = np.packbits(np.concatenate(kept) if kept else np.zeros(0, bool), bitorder="little")
    planes = change.planes
    scale = (change.scale.double() * coefficient).to(change.scale.dtype)
    if not bool(torch.isfinite(scale).all()):
        raise NonFinite(f"a scale times {coefficient:g} is not finite in {scale.dtype}")
    signs = trusted(planes.positive & mask, planes.negative & mask, planes.length)
    return ternary(signs, scale, change.full_shape, change.device)


def magnitude(change: Change, sieve: Sieve) -> float:
    """Return the sum of the magnitudes of the kept entries: of every row, then exactly over the rows."""
    columns = matrix_shape(change.shape)[1]
    return math.fsum(
        row for x_B in _through(change, sieve) for row in np.abs(x_B).reshape(-1, max(1, columns)).sum(1).tolist()
    )


def _through(change: Change, sieve: Sieve) -> Iterator[NDArray[np.float64]]:
    """Yield what a sieve leaves of a change, slab by slab."""
    rows, columns = matrix_shape(change.shape)
    for start, stop in slabs(rows, columns):
        part = slab(change, start, stop)
        out = np.empty(part.size)
        sieve(part, start * columns, 1.0, out)
        yield out


def slab(change: Change, start: int, stop: int) -> NDArray[Any]:
    """Return rows ``start ... stop - 1`` in storage order on the CPU: the same numbers as ``change.dense()``."""
    if isinstance(change, Dense):
        return flat(change.matrix()[start:stop].cpu(), "the change")
    return flat(assembled(change, start, stop).to(change.dtype).cpu(), "the change")
