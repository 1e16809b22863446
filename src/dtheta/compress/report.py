"""What a compression gained and lost, measured on both deltas.

    H = -p log2 p - (1 - p) log2 (1 - p) + p     least bits an entry if entries are independent, p their density

Sizes are those of the tensors that a file stores (a file adds a header of names and digests, the same for both). A
ratio is against the same numbers as plain float16 or float32: those that the delta holds, such as the two factors of
an adapter, and those of the parameters in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.ternary import Ternary
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class Compression:
    """Size and accuracy of a compressed delta.

    Attributes:
        entries: Entries that are ternary.
        kept: Entries that are not zero.
        exact: Numbers beside them: scales, shifts, new vectors, changes that were left as they are.
        entropy: Least bits an entry, by the density of each tensor, entries independent.
        bits: Bits an entry that the coded signs and their scales take; NaN if nothing is ternary.
        nbytes: Bytes of all stored tensors of the compressed delta.
        before: Bytes of all tensors of the delta.
        against_float16: Numbers that the delta holds, at 2 bytes, over ``nbytes``: the ratio the paper gives.
        against_float32: The same at 4 bytes.
        against_full_float16: All parameters that the delta touches, at 2 bytes, over ``nbytes``.
        against_full_float32: The same at 4 bytes.
        relative_error: ||delta - packed|| / ||delta||; NaN for a zero delta.
        cosine: Of the angle between both; NaN if one is zero.
        vanished: Parameters whose change has become zero.
    """

    entries: int
    kept: int
    exact: int
    entropy: float
    bits: float
    nbytes: int
    before: int
    against_float16: float
    against_float32: float
    against_full_float16: float
    against_full_float32: float
    relative_error: float
    cosine: float
    vanished: tuple[str, ...]

    @property
    def density(self) -> float:
        """Share of the ternary entries that are not zero."""
        return self.kept / self.entries if self.entries else 0.0

    @property
    def ratio(self) -> float:
        """Bytes before over bytes after."""
        return _over(self.before, self.nbytes)


def compression_report(delta: Delta, packed: Delta) -> Compression:
    """Return sizes of a delta and its compressed form, and how far they are apart.

    Raises:
        ConfigError: If the second does not change the same parameters as the first.
        BaseMismatch: If they are of different bases.
        ShapeMismatch: If they disagree on a shape.
    """
    if set(delta) != set(packed):
        odd = sorted(set(delta) ^ set(packed))
        raise ConfigError(f"not of the same parameters: {odd[0]!r} and {len(odd) - 1} more are in one delta only")
    signs = [leaf for change in packed.changes.values() for leaf in change.leaves() if isinstance(leaf, Ternary)]
    entries = sum(leaf.planes.length for leaf in signs)
    coded = sum(_stored(leaf) for leaf in signs)
    nbytes, numbers = sum(map(_stored, packed.changes.values())), sum(map(_numbers, delta.changes.values()))
    exact = sum(map(_numbers, packed.changes.values())) - entries
    length = delta.norm()
    return Compression(
        entries=entries,
        kept=sum(leaf.count for leaf in signs),
        exact=exact,
        entropy=_over(math.fsum(leaf.planes.length * entropy(leaf.density) for leaf in signs), entries),
        bits=_over(8 * coded, entries),
        nbytes=nbytes,
        before=delta.nbytes,
        against_float16=_over(2 * numbers, nbytes),
        against_float32=_over(4 * numbers, nbytes),
        against_full_float16=_over(2 * delta.numel, nbytes),
        against_full_float32=_over(4 * delta.numel, nbytes),
        relative_error=_over((delta - packed).norm(), length),
        cosine=delta.cosine(packed),
        vanished=tuple(name for name in delta if packed[name].norm() == 0.0 and delta[name].norm() > 0.0),
    )


def entropy(density: float) -> float:
    """Return the bits of one ternary entry that is zero with probability 1 - density, its sign even."""
    rest = 1.0 - density
    return density - sum(p * math.log2(p) for p in (density, rest) if p > 0)


def stored_bytes(delta: Delta) -> int:
    """Return the bytes of the tensors that a file of the delta stores."""
    return sum(map(_stored, delta.changes.values()))


def _stored(change: Change) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in change.stored().values())


def _numbers(change: Change) -> int:
    """Return how many numbers hold a change; a ternary entry counts as one."""
    return sum(
        leaf.planes.length + leaf.scale.numel()
        if isinstance(leaf, Ternary)
        else sum(tensor.numel() for tensor in leaf.tensors().values())
        for leaf in change.leaves()
    )


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan
