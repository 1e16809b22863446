"""Delta: a vector in the parameter space of one pretrained network.

    delta = {parameter name: Change} + fingerprint of the base + provenance

Deltas of one base form a vector space: ``a + b``, ``0.3 * a``, ``-a``, ``a.inner(b)``, ``a.norm()``, ``a.cosine(b)``.
Every operation is exact: it keeps factored changes factored and never rounds a low-rank sum into one rank. A sum of
deltas of different bases is refused, tensor by tensor.

Two deltas are equal when their digests are: the same changes, in the same form, of the same base tensors. How they
came to be, and how a file stores them, does not count.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dtheta.core.change import Change
from dtheta.core.combination import add, scale
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.naming import naming
from dtheta.core.products import inner
from dtheta.core.provenance import Provenance
from dtheta.core.tensors import matches
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
    did_you_mean,
)

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, eq=False, repr=False)
class Delta:
    """What changed, relative to which base, made by what.

    Attributes:
        changes: Change by parameter name, in the order of the model.
        base: Digests of the touched tensors and the root of the base.
        provenance: How the delta was made.
    """

    changes: Mapping[str, Change]
    base: Fingerprint = field(default_factory=lambda: Fingerprint({}))
    provenance: Provenance = field(default_factory=lambda: Provenance("made"))
    __array_ufunc__ = None  # numpy scalars leave ``scalar * delta`` to us

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", dict(self.changes))

    def __getitem__(self, name: str) -> Change:
        """Return the change of one parameter.

        Raises:
            UnknownParameter: If the delta does not change it.
        """
        if name not in self.changes:
            raise UnknownParameter(f"this delta does not change {name!r}{did_you_mean(name, self.changes)}")
        return self.changes[name]

    def __contains__(self, name: object) -> bool:
        return name in self.changes

    def __iter__(self) -> Iterator[str]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __eq__(self, other: object) -> bool:
        return self is other or (self.digest == other.digest if isinstance(other, Delta) else NotImplemented)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __add__(self, other: Delta) -> Delta:
        return total([self, other]) if isinstance(other, Delta) else NotImplemented

    def __radd__(self, other: int) -> Delta:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where sum(deltas) begins

    def __sub__(self, other: Delta) -> Delta:
        return total([self, -other]) if isinstance(other, Delta) else NotImplemented

    def __neg__(self) -> Delta:
        return self * -1.0

    def __mul__(self, factor: float) -> Delta:
        if not _is_number(factor):
            return NotImplemented
        factor = _finite(factor, "cannot scale a delta by")
        if factor == 1.0:
            return self
        changes = {name: scale(change, factor) for name, change in self.changes.items()}
        return Delta(changes, self.base, derived("scale", [self], coefficients=[factor]))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Delta:
        if not _is_number(divisor):
            return NotImplemented
        found = _finite(divisor, "cannot divide a delta by")
        if not found or not math.isfinite(1.0 / found):
            raise UnsupportedLayer(f"cannot divide a delta by {found}: expected a number whose inverse is finite")
        return self * (1.0 / found)

    def inner(self, other: Delta) -> float:
        """Return the inner product over all parameters; those that only one delta changes count as zero.

        Raises:
            BaseMismatch: If both touch a tensor of different content.
            ShapeMismatch: If they disagree on a shape.
            ConfigError: If ``other`` is no delta.
        """
        if not isinstance(other, Delta):
            raise ConfigError(f"a {type(other).__name__} was given; expected another delta of the same base")
        _same_base([self, other])
        return math.fsum(
            naming(name, partial(inner, change, other.changes[name]))
            for name, change in self.changes.items()
            if name in other.changes
        )

    def norm(self) -> float:
        """Return the Euclidean norm over all parameters."""
        return math.hypot(*(change.norm() for change in self.changes.values()))

    def cosine(self, other: Delta) -> float:
        """Return the cosine of the angle to ``other``, in [-1, 1]; NaN when either is zero."""
        product = self.inner(other)
        mine, others = self.norm(), other.norm()
        return max(-1.0, min(1.0, product / mine / others)) if mine > 0 and others > 0 else math.nan

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that hold the changes."""
        return sum(change.nbytes for change in self.changes.values())

    @property
    def numel(self) -> int:
        """Number of elements of all parameters that the delta touches."""
        return sum(math.prod(change.shape) for change in self.changes.values())

    @cached_property
    def digest(self) -> str:
        """Identity: sha256 of the content (changes and touched base), whatever the codec, time or machine."""
        return content_digest(self.base, {n: (c.meta(), c.digests) for n, c in self.changes.items()})

    def map(self, change: Callable[[str, Change], Change]) -> Delta:
        """Return the delta with every change replaced by ``change(name, old)``; base and provenance stay."""
        return replace(self, changes={name: change(name, old) for name, old in self.changes.items()})

    def to(self, device: torch.device | str) -> Delta:
        """Return the delta with its tensors on another device."""
        return self.map(lambda _, old: old.map(lambda t: t.to(device)))

    def restrict(self, pattern: str) -> Delta:
        """Return the changes whose names match a glob; alternatives are joined by ``|``, one with ``!`` takes away.

        ``"*|!head.*"`` is all but the head.

        Raises:
            UnknownParameter: If nothing matches.
        """
        kept = {n: c for n, c in self.changes.items() if matches(n, pattern)}
        if not kept:
            more = f"; '*|{pattern}' is all but those" if pattern.startswith("!") else ""
            raise UnknownParameter(f"no change matches {pattern!r}{more}; the first names are {list(self.changes)[:3]}")
        return Delta(kept, self.base.restrict(kept), derived("restrict", [self], pattern=pattern))

    def rename(self, new_name: Callable[[str], str]) -> Delta:
        """Return the delta for a model in which the same tensors have other names, such as a wrapped encoder.

        The root of the base is dropped, since it covers names.

        Raises:
            ShapeMismatch: If two parameters would get one name.
        """
        changes = {new_name(name): change for name, change in self.changes.items()}
        if len(changes) != len(self.changes):
            raise ShapeMismatch("renaming gives two parameters the same name")
        digests = {new_name(name): digest for name, digest in self.base.digests.items()}
        return Delta(changes, Fingerprint(digests), derived("rename", [self]))

    def bind(self, model: nn.Module | Mapping[str, Tensor]) -> Delta:
        """Return the delta with the singular vectors of spectral changes taken from ``model``.

        Raises:
            BaseMismatch: If the model is not the base of this delta.
        """
        from dtheta.core.apply import bind

        return bind(self, model)

    @property
    def new(self) -> dict[str, Change]:
        """The vectors that the base does not have."""
        return {n: c for n, c in self.changes.items() if c.is_new}

    def save(self, path: str | PathLike[str], *, include_basis: bool = False) -> Path:
        """Write the delta to a ``.delta`` file, completely or not at all, and return its path.

        Args:
            path: Where to; an existing file is replaced.
            include_basis: Store the singular vectors of spectral changes beside their shifts.

        Raises:
            OutputError: If the file cannot be written.
            NonFinite: If a change holds NaN or infinity.
        """
        from dtheta.core.files import save

        return save(self, path, include_basis=include_basis)

    def __repr__(self) -> str:
        method = self.provenance.method.get("name", self.provenance.operation)
        root = (self.base.root or "partly known")[:12]
        return f"Delta({method}: {len(self)} parameters, {self.nbytes:,} bytes, base {root})"

    def __str__(self) -> str:
        rows = [f"{'parameter':<60} {'change':<14} {'rank':>5} {'norm':>11} {'bytes':>12}"]
        for name, c in self.changes.items():
            rank = "" if c.shown_rank is None else str(c.shown_rank)
            rows.append(f"{name:<60} {c.kind:<14} {rank:>5} {_norm_text(c):>11} {c.nbytes:>12,}")
        return "\n".join([repr(self), *rows])


def _norm_text(change: Change) -> str:
    """Return the norm to be shown; that of a sum with a spectral term takes the singular vectors of the base."""
    try:
        return f"{change.norm():.4g}"
    except ConfigError:
        return "unbound"


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, numbers.Real)


def _finite(value: Any, what: str) -> float:
    """Return a real number as a float."""
    refuse_gradient(value, "the factor of a delta")
    try:
        found = float(value)
    except OverflowError:  # a whole number that no float holds
        found = math.inf
    if not math.isfinite(found):
        raise UnsupportedLayer(f"{what} {found}: expected a finite number")
    return found


def refuse_gradient(value: Any, what: str) -> None:
    """Raise for a tensor that wants a gradient, which no delta hands on: what is learned would never move.

    Under ``torch.no_grad()`` it wants none.

    Raises:
        ConfigError: Saying what learns coefficients.
    """
    if torch.is_grad_enabled() and isinstance(value, Tensor) and value.requires_grad:
        raise ConfigError(
            f"{what} is a tensor that requires a gradient, and a delta hands none on to it; "
            "dt.learn_coefficients(model, deltas, batches, loss) learns coefficients, and value.item() is a number"
        )


def content_digest(base: Fingerprint, changes: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]]) -> str:
    """Return the identity of a delta from the meta data and the tensor digests of its changes, as hex."""
    content = hashlib.sha256()
    for name in sorted(changes):
        meta, digests = changes[name]
        record = {"name": name, "base": base.digests.get(name), "meta": meta, "tensors": digests}
        content.update(json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
        content.update(b"\n")
    return content.hexdigest()


def total(deltas: Sequence[Delta], operation: str = "add", **settings: Any) -> Delta:
    """Return the exact sum of deltas of one base.

    Raises:
        ConfigError: If there is none.
        BaseMismatch: If two of them were made on tensors of different content.
        ShapeMismatch: If they disagree on the shape of a parameter.
        UnsupportedLayer: If a name is a new vector in one and an existing parameter in another.
    """
    if not deltas:
        raise ConfigError("a sum of deltas needs at least one delta: an empty sum has no base")
    base = _same_base(deltas)
    names = dict.fromkeys(name for delta in deltas for name in delta.changes)
    parts = {name: [delta.changes[name] for delta in deltas if name in delta.changes] for name in names}
    changes = {name: naming(name, partial(add, of_name)) for name, of_name in parts.items()}
    return Delta(changes, base, derived(operation, deltas, **settings))


def _same_base(deltas: Sequence[Delta]) -> Fingerprint:
    """Return the joint fingerprint, or raise where two deltas touch one tensor of different content."""
    digests: dict[str, str] = {}
    differ = set()
    for delta in deltas:
        for name, digest in delta.base.digests.items():
            if digests.setdefault(name, digest) != digest:
                differ.add(name)
    if differ:
        raise BaseMismatch(
            f"these deltas were made on different bases: {len(differ)} tensors differ in content, first: "
            f"{', '.join(sorted(differ)[:3])}; only deltas of one base can be combined"
        )
    roots = {delta.base.root for delta in deltas}
    return Fingerprint(digests, roots.pop() if len(roots) == 1 else None)


def derived(operation: str, parents: Sequence[Delta], **settings: Any) -> Provenance:
    """Return the provenance of a result.

    It inherits task and seed where all parents share them, and how the layers use their weights where all know it.
    """
    first = parents[0].provenance
    task = first.task if all(p.provenance.task == first.task for p in parents) else {}
    seed = first.seed if all(p.provenance.seed == first.seed for p in parents) else None
    method = first.method if len(parents) == 1 else {}
    uses = [p.provenance.settings.get("uses") for p in parents]
    known = [table for table in uses if isinstance(table, Mapping)]
    if operation != "rename" and len(known) == len(uses):
        settings["uses"] = {name: use for table in known for name, use in table.items()}
    return Provenance(operation, method, [p.digest for p in parents], settings, seed, task)
