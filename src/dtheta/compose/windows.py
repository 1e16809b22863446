"""The entries that merges keep by their magnitude: of every delta, or of every tensor of it.

    kept   ranks top + 1 ... top + k of the N magnitudes, the largest first;   k = floor(density N + 0.5), 1 at least

of all entries together of the parameters that a delta changes ("delta"), or of each ("tensor"). Exactly so many, as far
as there are: of equal entries the first, parameters by name, entries in storage order (core/topk.py). Zeros are never
kept.

``top`` 0 is the trimming of TIES; with ``top = floor(gamma N + 0.5)`` these are the breadcrumbs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtheta.compose.entrywise import slab
from dtheta.compose.sieves import Sieve, Window, everything
from dtheta.core.change import Change, Dense, matrix_shape, slabs
from dtheta.core.delta import Delta
from dtheta.core.naming import naming
from dtheta.core.ternary import Ternary
from dtheta.core.topk import kept_count, threshold
from dtheta.errors import NonFinite

Per = Literal["delta", "tensor"]


@dataclass(frozen=True, eq=False)
class Windows:
    """Sieves by the number of the delta, and by the parameter where each has its own."""

    per: Per
    found: Mapping[tuple[int, str | None], Sieve]

    def of(self, delta: int, name: str) -> Sieve:
        """Return the sieve for a parameter of a delta; they are to be used in the order of names, once."""
        return self.found[delta, None if self.per == "delta" else name]


def windows(
    deltas: Sequence[Delta], per: Per, densities: Sequence[float], gammas: Sequence[float] | None = None
) -> Windows:
    """Return the sieves that keep a density of the entries of largest magnitude below the top share ``gamma``.

    Raises:
        ConfigError: If a density is not in (0, 1].
        NonFinite: If an entry is NaN or infinite.
    """
    found: dict[tuple[int, str | None], Sieve] = {}
    for i, delta in enumerate(deltas):
        gamma = 0.0 if gammas is None else gammas[i]
        parts = {None: delta.changes} if per == "delta" else {name: {name: c} for name, c in delta.changes.items()}
        for name, changes in parts.items():
            place = f"delta {i}" if name is None else f"delta {i}, {name}"
            found[i, name] = naming(place, lambda c=changes, i=i, g=gamma: _window(c, densities[i], g))
    return Windows(per, found)


def _window(changes: Mapping[str, Change], density: float, gamma: float) -> Sieve:
    entries = sum(math.prod(change.shape) for change in changes.values())
    k, top = kept_count(entries, density), min(entries, math.floor(gamma * entries + 0.5))
    if top == 0 and _kept_anyway(changes, k):
        return everything
    source = _Slabs(changes)
    low = threshold(source, min(entries, top + k))
    return Window(low, threshold(source, top) if top else None)


def _kept_anyway(changes: Mapping[str, Change], k: int) -> bool:
    """Tell whether there are only ternary changes, of at most k signs together: then no magnitude needs a look."""
    signs = [change for change in changes.values() if isinstance(change, Ternary)]
    if len(signs) != len(changes) or sum(change.count for change in signs) > k:
        return False
    if not all(change.is_finite() for change in signs):
        raise NonFinite("a scale is NaN or infinite")
    return True


class _Slabs(Mapping[str, Tensor]):
    """The slabs of changes by name, each made when it is asked for; a dense change is one slab."""

    def __init__(self, changes: Mapping[str, Change]) -> None:
        self.places: dict[str, tuple[Change, int, int]] = {}
        for name in sorted(changes):
            rows, columns = matrix_shape(changes[name].shape)
            ranges = [(0, rows)] if isinstance(changes[name], Dense) else list(slabs(rows, columns))
            for start, stop in ranges:
                key = name if len(ranges) == 1 else f"{name}[{start}:{stop}]"
                self.places[key] = (changes[name], start, stop)

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(slab(*self.places[key]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
