"""The signs of a delta's largest entries: everything about a compressed delta but its scales.

    per "delta"    the k largest entries of all vectors together, k = floor(density N + 0.5), at least 1
    per "tensor"   of each vector
    per "row"      of each row of each vector; a one-dimensional parameter is one row

Exactly k, and of equal entries at the threshold the first, in this order: parameters by name, the parts of one as it
stores them, the left factor before the right one, rows from the first on. Zeros are never kept. The order of a delta's
names in memory does not matter.

Search and scales reuse what is found here, so that another scale costs no other selection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dtheta.compress.parts import Pair, Part
from dtheta.compress.plan import Of, Plan, plan
from dtheta.compress.vectors import Per, Vector, select
from dtheta.core.arguments import is_number, one_delta
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.linalg import lowrank_norm
from dtheta.core.naming import naming
from dtheta.core.tensors import matches
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer, did_you_mean


@dataclass(frozen=True, eq=False)
class Signs:
    """The kept signs of a delta, in the order of the parameters' names.

    Attributes:
        delta: What was compressed.
        density: Share of entries that was asked for.
        per: Of what it is the share.
        plans: What of each parameter is compressed.
        vectors: The signs, vector after vector.
    """

    delta: Delta
    density: float
    per: Per
    plans: Mapping[str, Plan]
    vectors: tuple[Vector, ...]

    def parts(self) -> Iterator[tuple[Part, tuple[Vector, ...]]]:
        """Yield every part with its vectors."""
        start = 0
        for part in (part for found in self.plans.values() for part in found.parts):
            count = len(part.vectors)
            yield part, self.vectors[start : start + count]
            start += count

    def scaled(self, scales: Sequence[Tensor]) -> dict[str, Change]:
        """Return the compressed change of every compressed parameter, given the scale of every vector."""
        numbers = iter(scales)
        built = iter([part.build([v.ternary(next(numbers)) for v in vectors]) for part, vectors in self.parts()])
        return {name: found.assemble([next(built) for _ in found.parts]) for name, found in self.plans.items()}


def signs(
    delta: Delta, density: float, *, per: Per = "delta", of: Of = "factors", keep: str = "", new: bool = False
) -> Signs:
    """Select the entries of a delta that are kept.

    Args:
        delta: Any delta; spectral changes must be bound.
        density: Share of entries to keep, in (0, 1].
        per: Of what: all compressed entries of the delta, each vector, or each row.
        of: What is compressed of low-rank changes; see plan.py.
        keep: Glob of the parameters that are left as they are; alternatives are joined by ``|``.
        new: Whether new vectors are compressed too.

    Raises:
        ConfigError: If an argument cannot be meant, or nothing is left to compress.
        UnknownParameter: If ``keep`` names nothing.
        UnsupportedLayer: If a change cannot be compressed in this way; the message names it.
        NonFinite: If a change holds NaN or infinity; the message names it.
    """
    density = check(density, per, of)
    chosen = _chosen(one_delta(delta), keep)
    plans = {name: naming(name, lambda n=name: plan(delta[n], of, new)) for name in chosen}
    named = {
        f"{name}{_place(i, found)}": values
        for name, found in plans.items()
        for i, values in enumerate(values for part in found.parts for values in part.vectors)
    }
    return Signs(delta, density, per, plans, tuple(select(named, density, per)))


def check(density: Any, per: str, of: str) -> float:
    """Check arguments that need no delta, and return the density.

    Raises:
        ConfigError: If one cannot be meant.
    """
    if not (is_number(density) and 0 < density <= 1):
        raise ConfigError(f"density {density!r} is not in (0, 1]: it is the share of entries to keep, 0.05 for 5 %")
    for name, value, known in (
        ("per", per, ("delta", "tensor", "row")),
        ("of", of, ("factors", "balanced", "product")),
    ):
        if value not in known:
            raise ConfigError(f"{name}={value!r} is not known; expected one of {', '.join(known)}")
    return float(density)


def refuse_vanished(found: Signs) -> None:
    """Check that products of factors are left where there were some.

    A short LoRA training leaves B far smaller than the drawn A, and one threshold over both then keeps A alone.

    Raises:
        UnsupportedLayer: If every product has become zero, since the threshold lies above all entries of one factor.
    """
    pairs = [vectors for part, vectors in found.parts() if isinstance(part, Pair)]
    alive = [[bool(vector.counts.any()) for vector in pair] for pair in pairs]
    if any(map(all, alive)) or not any(map(any, alive)):
        return
    for left, right in pairs:
        if lowrank_norm(left.values.matrix(), right.values.matrix()) > 0:
            raise UnsupportedLayer(
                f"{left.name}: at density {found.density} the largest entries all lie in one of the factors, so that "
                "every product becomes zero; use per='tensor', or of='balanced', whose factors are of one size"
            )


def _chosen(delta: Delta, keep: str) -> list[str]:
    """Return the names to compress, sorted."""
    if not isinstance(keep, str):
        raise ConfigError(f"keep={keep!r} is no glob; alternatives are joined in one text: 'head.*|*.bias'")
    for glob in filter(None, (glob.strip() for glob in keep.split("|"))):
        if not any(matches(name, glob) for name in delta):
            raise UnknownParameter(f"keep={glob!r} matches no change of this delta{did_you_mean(glob, delta)}")
    chosen = sorted(name for name in delta if not (keep and matches(name, keep)))
    if not chosen:
        raise ConfigError(f"nothing is left to compress: the delta has {len(delta)} changes, and keep={keep!r}")
    return chosen


def _place(index: int, found: Plan) -> str:
    """Return what tells the vectors of one parameter apart."""
    return "" if sum(len(part.vectors) for part in found.parts) == 1 else f" (vector {index})"
