"""What a file says of each kind of change, and how it becomes a change again.

    kind      fields beside kind and shape   tensors (dtype, shape)                        besides
    dense                                    values (float, shape)
    new                                      values (float, shape)
    low-rank  rank, core                     left (float, m r), right (float, r n),
                                             if core: core (float, r)
    new-low-rank  as low-rank                as low-rank
    stacked   rows, rank, core               left (float, E m r), right (float, E r n),
                                             if core: core (float, E r)
    rows      count                          index (int64, k), values (float, k n)
    spectral  rank                           shift (float, k)                              probe (float, m), with
                                                                                           parts (float64) or without;
                                                                                           or left (m k), right (k n)
    ternary   count, by_row,                 scale (float, scalar or m)                    code (uint8, any length)
              positive, negative
    block     axis, start, term              those of the term, as "term.NAME"
    scaled    factor, term                   those of the term, as "term.NAME"
    sum       terms                          those of term i, as "i.NAME"
    ternary-factors  left, right             those of the factors, as "left.NAME" and "right.NAME"

The signs of a ternary change are identified by the digests of their bit planes, which stand in its description; how
they are coded does not count. Everything is checked from the description alone: no tensor is read before its dtype and
shape are known to be right.

Shape legend: (m, n) the matrix in which a parameter of that shape is seen, of a stack that of each of its E slices; r
rank; k count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New, matrix_shape
from dtheta.core.combination import Scaled, Sum
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.planes import trusted
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from dtheta.core.tensorfile import is_shape
from dtheta.core.ternary import ternary
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.errors import FormatError, did_you_mean

NEW_KINDS = frozenset({"new", "new-low-rank"})  # of what the base does not have
MAX_DEPTH = 16  # of blocks, multiples and sums inside each other; sums and multiples made by ``+ *`` never nest

FLOATS = (torch.float32, torch.float64)
Part = tuple[tuple[torch.dtype, ...], tuple[int | None, ...]]  # None: a length that the description does not fix
Meta = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of change that is not made of others.

    Attributes:
        fields: Types of the fields beside kind and shape.
        parts: From the description to the dtypes and shapes of its tensors.
        build: From the description and the tensors to the change.
        besides: From the description to the further tensors, of which a file has one group, or none.
        coded: From the description to the digests of what a file holds in another form.
    """

    fields: Mapping[str, type]
    parts: Callable[[Meta], dict[str, Part]]
    build: Callable[[Meta, Mapping[str, Tensor]], Change]
    besides: Callable[[Meta], list[dict[str, Part]]] = lambda meta: []
    coded: Callable[[Meta], dict[str, str]] = lambda meta: {}


def _low_rank_parts(meta: Meta) -> dict[str, Part]:
    (m, n), r = matrix_shape(meta["shape"]), meta["rank"]
    parts: dict[str, Part] = {"left": (FLOATS, (m, r)), "right": (FLOATS, (r, n))}
    return {**parts, "core": (FLOATS, (r,))} if meta["core"] else parts


def _stacked_parts(meta: Meta) -> dict[str, Part]:
    (e, columns), m, r = matrix_shape(meta["shape"]), meta["rows"], meta["rank"]
    n = columns // m
    parts: dict[str, Part] = {"left": (FLOATS, (e, m, r)), "right": (FLOATS, (e, r, n))}
    return {**parts, "core": (FLOATS, (e, r))} if meta["core"] else parts


def _rows_parts(meta: Meta) -> dict[str, Part]:
    k = meta["count"]
    return {"index": ((torch.int64,), (k,)), "values": (FLOATS, (k, matrix_shape(meta["shape"])[1]))}


def _spectral_besides(meta: Meta) -> list[dict[str, Part]]:
    (m, n), k = matrix_shape(meta["shape"]), meta["rank"]
    probe: dict[str, Part] = {"probe": (FLOATS, (m,))}
    basis: dict[str, Part] = {"left": (FLOATS, (m, k)), "right": (FLOATS, (k, n))}
    return [{**probe, "parts": ((torch.float64,), ())}, probe, basis]


def _spectral(meta: Meta, t: Mapping[str, Tensor]) -> Change:
    parts = float(t["parts"]) if "parts" in t else None
    if parts is not None and parts < 0:
        raise FormatError(f"the size of its parts is {parts}; expected a number that is not negative")
    return Spectral(t["shift"], tuple(meta["shape"]), t.get("left"), t.get("right"), t.get("probe"), parts)


def _ternary(meta: Meta, t: Mapping[str, Tensor]) -> Change:
    """Return the change; its signs are decoded, and must have the digests and the count of the description."""
    from dtheta.core.codec.payload import decode

    if "code" not in t:
        raise FormatError("its coded signs are missing")
    n = math.prod(meta["shape"])
    mask, negative = decode(t["code"].numpy(), n)
    change = ternary(trusted(mask ^ negative, negative, n), t["scale"], tuple(meta["shape"]))
    for name in ("positive", "negative"):
        if change.digests[name] != meta[name]:
            raise FormatError(f"its {name} signs are not those that were written")
    if change.count != meta["count"]:
        raise FormatError(f"it has {change.count} entries that are not zero, and the file says {meta['count']}")
    return change


KINDS: dict[str, Kind] = {
    "dense": Kind({}, lambda meta: {"values": (FLOATS, tuple(meta["shape"]))}, lambda meta, t: Dense(t["values"])),
    "new": Kind({}, lambda meta: {"values": (FLOATS, tuple(meta["shape"]))}, lambda meta, t: New(t["values"])),
    "low-rank": Kind(
        {"rank": int, "core": bool},
        _low_rank_parts,
        lambda meta, t: LowRank(t["left"], t["right"], t.get("core"), tuple(meta["shape"])),
    ),
    "new-low-rank": Kind(
        {"rank": int, "core": bool},
        _low_rank_parts,
        lambda meta, t: NewLowRank(t["left"], t["right"], t.get("core"), tuple(meta["shape"])),
    ),
    "stacked": Kind(
        {"rows": int, "rank": int, "core": bool},
        _stacked_parts,
        lambda meta, t: Stacked(t["left"], t["right"], t.get("core"), tuple(meta["shape"])),
    ),
    "rows": Kind({"count": int}, _rows_parts, lambda meta, t: Rows(t["index"], t["values"], tuple(meta["shape"]))),
    "spectral": Kind(
        {"rank": int},
        lambda meta: {"shift": (FLOATS, (meta["rank"],))},
        _spectral,
        _spectral_besides,
    ),
    "ternary": Kind(
        {"count": int, "by_row": bool, "positive": str, "negative": str},
        lambda meta: {"scale": (FLOATS, (matrix_shape(meta["shape"])[0],) if meta["by_row"] else ())},
        _ternary,
        lambda meta: [{"code": ((torch.uint8,), (None,))}],
        lambda meta: {name: meta[name] for name in ("positive", "negative")},
    ),
}

_COMPOSITES: dict[str, dict[str, type]] = {
    "block": {"axis": int, "start": int, "term": dict},
    "scaled": {"factor": float, "term": dict},
    "sum": {"terms": list},
    "ternary-factors": {"left": dict, "right": dict},
}


@dataclass(frozen=True)
class Form:
    """A checked description of a change: what it is made of, and the tensors a file must have for it."""

    meta: Meta
    children: Mapping[str, Form]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return tuple(self.meta["shape"])

    def parts(self) -> dict[str, Part]:
        """Return dtypes and shapes of the tensors that hold the change, by name."""
        if self.children:
            return {f"{c}.{n}": part for c, child in self.children.items() for n, part in child.parts().items()}
        return KINDS[self.meta["kind"]].parts(self.meta)

    def identity(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Return the digests that identify the change, from those of ``parts()``."""
        if self.children:
            below = {c: child.identity(_below(digests, c)) for c, child in self.children.items()}
            return {f"{c}.{n}": digest for c, found in below.items() for n, digest in found.items()}
        kind = KINDS[self.meta["kind"]]
        return {part: digests[part] for part in kind.parts(self.meta)} | kind.coded(self.meta)

    def besides(self) -> list[list[dict[str, Part]]]:
        """Return, for each change at the ends of the tree, groups of further tensors: it has one of them at most."""
        if not self.children:
            return [KINDS[self.meta["kind"]].besides(self.meta)]
        return [
            [{f"{c}.{n}": part for n, part in group.items()} for group in groups]
            for c, child in self.children.items()
            for groups in child.besides()
        ]

    def needed(self, present: Container[str]) -> dict[str, Part]:
        """Return ``parts()`` and, of ``besides()``, the groups that are there, else the first that is begun."""
        found = self.parts()
        for groups in self.besides():
            chosen = (g for has in (all, any) for g in groups if has(part in present for part in g))
            found |= next(chosen, {})
        return found

    def build(self, tensors: Mapping[str, Tensor], digests: Mapping[str, str]) -> Change:
        """Return the change; ``digests`` of its tensors, already verified, save taking them again."""
        meta = self.meta
        built = [c.build(_below(tensors, n), _below(digests, n)) for n, c in self.children.items()]
        if meta["kind"] == "block":
            return Block(built[0], meta["axis"], meta["start"], self.shape)
        if meta["kind"] == "scaled":
            return Scaled(float(meta["factor"]), built[0])
        if meta["kind"] == "sum":
            return Sum(tuple(built))
        if meta["kind"] == "ternary-factors":
            return TernaryFactors(*built, self.shape)  # type: ignore[arg-type]  # parse lets ternary changes in only
        change = KINDS[meta["kind"]].build(meta, tensors)
        if all(tensors.get(name) is tensor for name, tensor in change.tensors().items()):
            object.__setattr__(change, "digests", {name: digests[name] for name in change.tensors()})
        return change


def fits(part: Part, dtype: torch.dtype, shape: Sequence[int]) -> bool:
    """Tell whether a tensor of this dtype and shape is what a part must be."""
    dtypes, wanted = part
    if dtype not in dtypes or len(shape) != len(wanted):
        return False
    return all(w in (n, None) for n, w in zip(shape, wanted, strict=True))


def _below(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(f"{prefix}."): value for n, value in table.items() if n.startswith(f"{prefix}.")}


def parse(meta: Any, depth: int = 0) -> Form:
    """Check the description of a change.

    Raises:
        FormatError: For an unknown kind or field, a wrong type, numbers that cannot be, or too much nesting.
    """
    if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str):
        raise FormatError("a change is not described by a kind")
    kind = meta["kind"]
    known = [*KINDS, *_COMPOSITES]
    if kind not in known:
        raise FormatError(
            f"unknown kind of change {kind[:40]!r}{did_you_mean(kind[:40], known)}; it may take a newer dtheta"
        )
    if depth > MAX_DEPTH:
        raise FormatError(f"changes are nested more than {MAX_DEPTH} deep")
    _check_fields(meta, KINDS[kind].fields if kind in KINDS else _COMPOSITES[kind])
    form = Form(meta, {name: parse(inner, depth + 1) for name, inner in _inner(meta).items()})
    if problem := _problem(form):
        raise FormatError(f"a change of kind {kind!r} cannot be: {problem}")
    return form


def kinds_in(meta: Meta) -> Iterator[str]:
    """Yield the kind of a checked description, and those of all that it is made of."""
    yield meta["kind"]
    for inner in _inner(meta).values():
        yield from kinds_in(inner)


def _inner(meta: Meta) -> dict[str, Any]:
    """Return the descriptions of the changes that one is made of, by the names under which they are stored."""
    if meta["kind"] == "sum":
        return {str(i): term for i, term in enumerate(meta["terms"])}
    return {name: meta[name] for name, kind in _COMPOSITES.get(meta["kind"], {}).items() if kind is dict}


def _check_fields(meta: Meta, fields: Mapping[str, type]) -> None:
    known = {"kind": str, "shape": list, **fields}
    for name in meta:
        if name not in known:
            raise FormatError(
                f"a change of kind {meta['kind']!r} has an unknown field {name[:40]!r}{did_you_mean(name[:40], known)}"
            )
    for name, expected in known.items():
        if name not in meta:
            raise FormatError(f"a change of kind {meta['kind']!r} has no field {name!r}")
        value = meta[name]
        if type(value) is not expected or (expected is int and not 0 <= value < 1 << 53):
            raise FormatError(f"field {name!r} of a change of kind {meta['kind']!r} is not a valid {expected.__name__}")
    if not is_shape(meta["shape"]):
        raise FormatError(f"the shape of a change of kind {meta['kind']!r} is not valid")


def _problem(form: Form) -> str:
    """Return what is wrong with numbers that have the right types, or an empty string."""
    meta, shape = form.meta, matrix_shape(form.shape)
    terms = list(form.children.values())
    if any(term.meta["kind"] in NEW_KINDS for term in terms):
        return "a new vector is no term of an existing parameter"
    if meta["kind"] in ("sum", "scaled") and (not terms or any(term.shape != form.shape for term in terms)):
        return "its terms have other shapes"
    if meta["kind"] == "scaled" and not math.isfinite(meta["factor"]):
        return "its factor is not finite"
    if meta["kind"] == "block":
        axis, inner = meta["axis"], matrix_shape(terms[0].shape)
        if axis not in (0, 1) or inner[1 - axis] != shape[1 - axis] or meta["start"] + inner[axis] > shape[axis]:
            return "the block does not fit into the parameter"
    if meta["kind"] == "ternary-factors":
        shapes = [term.shape for term in terms]
        if any(term.meta["kind"] != "ternary" for term in terms) or [len(s) for s in shapes] != [2, 2]:
            return "its factors are no ternary matrices"
        if (shapes[0][0], shapes[1][1]) != shape or shapes[0][1] != shapes[1][0]:
            return f"factors of {list(shapes[0])} and {list(shapes[1])} do not fit {list(shape)}"
    if meta["kind"] == "stacked" and (meta["rows"] < 1 or shape[1] % meta["rows"]):
        return f"slices of a parameter of {list(form.shape)} cannot have {meta['rows']} rows"
    if meta["kind"] == "ternary" and meta["count"] > math.prod(shape):
        return f"{meta['count']} entries of {math.prod(shape)}"
    if meta["kind"] == "spectral" and not 1 <= meta["rank"] <= min(shape):
        return f"{meta['rank']} shifts do not fit a parameter of {list(form.shape)}"
    if meta["kind"] == "rows" and meta["count"] > shape[0]:
        return f"{meta['count']} rows of {shape[0]}"
    return ""
