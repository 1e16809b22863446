"""Whether deltas fit a base and each other, as their headers tell; before a tensor of a delta is read.

    each other   a tensor that two deltas touch has one digest in both
    the base     has every touched tensor, in its shape, and with the digest that the delta names

A classifier's delta calls the pretrained part ``encoder``, one of pictures that brings prompts calls it ``model``; a
checkpoint has no such prefix, or another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dtheta.errors import BaseMismatch

if TYPE_CHECKING:
    from dtheta.core.checkpoints import Checkpoint
    from dtheta.core.header import Header

T = TypeVar("T")

_ENCODER, _HEAD = "encoder.", "head."
_MODEL = "model."  # of an image-text model in the classifier around it
_BUDGET = 1 << 30  # bytes of the base whose digests a dry run takes; the smallest tensors first


def prefix_in(names: Iterable[str], base: Collection[str], outer: str = _ENCODER) -> str | None:
    """Return what stands in place of ``outer`` in a base; None where the names of the delta are already the base's.

    Raises:
        BaseMismatch: If the base has no such tensor under any prefix.
    """
    names = list(names)
    inner = [name for name in names if name.startswith(outer)]
    if not inner or all(name in base for name in names):
        return None
    rest = inner[0].removeprefix(outer)
    for name in base:
        if name == rest or name.endswith(f".{rest}"):
            return name.removesuffix(rest)
    raise BaseMismatch(f"the delta changes {rest!r}, which this base does not have: it was made for another base")


def require_one_base(headers: Sequence[Header], select: str | None = None) -> None:
    """Raise unless all deltas were made on one base, as far as the tensors that they share (and match a glob) tell.

    Raises:
        BaseMismatch: Naming two files and the first tensor that differs.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for header in headers:
        for name, digest in _chosen(header.base.digests, select).items():
            known, path = seen.setdefault(name, (digest, header.path))
            if known != digest:
                raise BaseMismatch(
                    f"{path} and {header.path} were made on different bases: {name} differs between them; "
                    "'dtheta show FILE' says which base each is of"
                )
    for name, (digest, path) in seen.items():
        outer, other = seen.get(_ENCODER + name, (None, path))
        if outer == digest and other != path:
            raise BaseMismatch(
                f"{path} moves the weights of the model itself ({name}) and {other} those of a classifier around it "
                f"({_ENCODER}{name}): what both move would be taken for different weights; give deltas of one kind"
            )


def require_kin(headers: Sequence[Header], select: str | None = None) -> None:
    """Raise unless something says that all deltas are of one base, where it will not be at hand.

    That is a tensor that two of them touch, the same digest of the whole base, or the same name of the model: deltas
    of classifiers name it, since their bases count heads of other sizes. Without any, their sum would fit no model.

    Raises:
        BaseMismatch: Naming two files that nothing connects.
    """
    first, *others = ([header, _marks(header, select)] for header in headers)
    known = first[1]
    waiting = others
    while waiting:
        joined = [one for one in waiting if known & one[1]]
        if not joined:
            raise BaseMismatch(
                f"{first[0].path} and {waiting[0][0].path} have no tensor in common and name different bases, "
                f"{_base_of(first[0])} and {_base_of(waiting[0][0])}: no model takes both; give deltas of one base"
            )
        known = known.union(*(marks for _, marks in joined))
        waiting = [one for one in waiting if one not in joined]


def _marks(header: Header, select: str | None) -> set[tuple[str, str]]:
    """Return what two deltas of one base have in common, at least one of it."""
    marks = set(_chosen(header.base.digests, select).items())
    named = {"base": header.base.root, "model": header.provenance.task.get("model")}
    return marks | {(f"the {what}", str(name)) for what, name in named.items() if name}


def _base_of(header: Header) -> str:
    return str(header.provenance.task.get("model") or (header.base.root or "one without a name")[:12])


def require_base(header: Header, checkpoint: Checkpoint, whole: bool = True, select: str | None = None) -> None:
    """Raise unless the pretrained part of a delta was made on the tensors of a checkpoint.

    Args:
        header: Of the delta.
        checkpoint: The base.
        whole: Whether to compare all digests; else only those of the smallest tensors, up to a gigabyte.
        select: Look only at the changes that match this glob.

    Raises:
        BaseMismatch: Naming the file and the first tensors that differ.
    """
    from dtheta.adapt.few_shot import IMAGE_TEXT
    from dtheta.core.fingerprint import Fingerprint

    try:
        outer = _MODEL if header.provenance.task.get("kind") == IMAGE_TEXT else _ENCODER
        digests = _renamed(_chosen(header.base.digests, select), checkpoint, outer)
        _require_shapes(_renamed(_chosen(header.changes, select), checkpoint, outer), checkpoint)
        Fingerprint(digests).check(checkpoint, _looked_at(digests, checkpoint, whole))
    except BaseMismatch as error:
        raise BaseMismatch(f"{header.path}: {error}") from None


def _looked_at(names: Collection[str], checkpoint: Checkpoint, whole: bool) -> list[str]:
    """Return the tensors whose digests are taken, the smallest first."""
    sizes = {name: checkpoint.info(name).nbytes if name in checkpoint else 0 for name in names}
    left, chosen = _BUDGET, []
    for name in sorted(names, key=lambda name: sizes[name]):
        left -= sizes[name]
        if whole or left >= 0:
            chosen.append(name)
    return chosen


def _require_shapes(changes: Mapping[str, Mapping[str, Any]], checkpoint: Checkpoint) -> None:
    """Raise where a touched tensor has another shape: that costs nothing to see, whatever its size."""
    for name, meta in changes.items():
        if name in checkpoint and "shape" in meta and tuple(meta["shape"]) != tuple(checkpoint.info(name).shape):
            raise BaseMismatch(
                f"{name} has the shape {tuple(meta['shape'])} in the delta and {tuple(checkpoint.info(name).shape)} in "
                "the base: it was made for another base"
            )


def _chosen(table: Mapping[str, T], select: str | None) -> dict[str, T]:
    from dtheta.core.tensors import matches

    return {name: value for name, value in table.items() if select is None or matches(name, select)}


def _renamed(table: Mapping[str, T], base: Collection[str], outer: str) -> dict[str, T]:
    """Return a delta's table under the names of a base, without what the base cannot have: a head."""
    prefix = prefix_in(table, base, outer)
    if prefix is None:
        return dict(table)
    inner = {name: value for name, value in table.items() if not name.startswith(_HEAD)}
    return {prefix + name.removeprefix(outer): value for name, value in inner.items()}
