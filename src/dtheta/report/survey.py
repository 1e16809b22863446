"""Survey: what a set of deltas is, as plain records: made by what, of which base, how large, how alike."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.errors import BaseMismatch, ConfigError, DthetaError

#: The cosine of two deltas, or None and the reason why there is no angle.
Angle = tuple[float | None, str]


@dataclass(frozen=True)
class ChangeSummary:
    """One parameter's change: how it is stored, its Euclidean norm (unit of the weights), its bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    rank: int | None
    norm: float
    nbytes: int


@dataclass(frozen=True)
class DeltaSummary:
    """One delta. ``origin`` holds what its provenance says, in words.

    ``method`` is empty where no method made it (a sum, an extraction), ``base`` where it names none; else hex.
    ``parents`` are the digests of the deltas it was made of.
    """

    name: str
    method: str
    base: str
    digest: str
    norm: float
    file_bytes: int
    changes: tuple[ChangeSummary, ...]
    origin: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """Deltas and the cosines between them; None where there is no angle, and ``notes`` say why.

    ``one_base`` is set where it is known that all are of one base, though each names only what it was trained in: the
    base of a classifier counts the shape of its head.
    """

    deltas: tuple[DeltaSummary, ...]
    cosines: tuple[tuple[float | None, ...], ...]
    notes: tuple[str, ...] = ()
    one_base: bool = False

    def __post_init__(self) -> None:
        if not self.deltas:
            raise ConfigError("report: expected at least one delta file")


def survey(paths: Sequence[str | os.PathLike[str]]) -> Survey:
    """Load ``.delta`` files and describe them. Raises what loading raises (`FormatError`)."""
    return survey_of(
        [(name, load(path), Path(path).stat().st_size) for name, path in zip(_names(paths), paths, strict=True)]
    )


def survey_of(
    entries: Sequence[tuple[str, Delta, int]], known: MutableMapping[tuple[str, str], Angle] | None = None
) -> Survey:
    """Describe deltas that are in memory.

    Args:
        entries: Name, delta, and bytes of its file, of each.
        known: Angles by pair of names, which then are distinct, that were taken before, which costs the most; what is
            taken now is added.
    """
    before = dict(known or {})
    found: dict[tuple[int, int], float | None] = {}
    reasons: dict[str, list[str]] = {}
    for i, j in combinations_with_replacement(range(len(entries)), 2):
        (first, a, _), (second, b, _) = entries[i], entries[j]
        cosine, why = angle = before.get((first, second)) or _angle(a, b)
        if known is not None:
            known[first, second] = angle
        found[i, j] = found[j, i] = cosine
        if why:
            reasons.setdefault(why, []).append(f"{first} and {second}" if i != j else first)
    everyone = range(len(entries))
    cosines = tuple(tuple(found[i, j] for j in everyone) for i in everyone)
    notes = tuple(f"{why}: {', '.join(pairs)}" for why, pairs in reasons.items())
    return Survey(tuple(summary(*entry) for entry in entries), cosines, notes)


def summary(name: str, delta: Delta, file_bytes: int) -> DeltaSummary:
    """One delta in plain numbers and words."""
    changes = tuple(
        ChangeSummary(parameter, change.kind, tuple(change.shape), change.shown_rank, change.norm(), change.nbytes)
        for parameter, change in delta.changes.items()
    )
    made = delta.provenance
    method = str(made.method.get("name", ""))
    base = delta.base.digest if delta.base.digests or delta.base.root else ""
    return DeltaSummary(
        name, method, base, delta.digest, delta.norm(), file_bytes, changes, _origin(delta), tuple(made.parents)
    )


def _origin(delta: Delta) -> dict[str, str]:
    made = delta.provenance
    fields = {key: value for key, value in made.method.items() if key != "name"}
    words = {
        "operation": made.operation,
        "method": str(made.method.get("name", "")),
        "fields": _text(fields),
        "settings": _text(made.settings),
        "task": _text(made.task),
        "seed": "" if made.seed is None else str(made.seed),
        "parents": _text(list(made.parents)),
        "created": made.created,
        "versions": _text(made.versions),
    }
    return {key: value for key, value in words.items() if value}


def _text(value: Any) -> str:
    """A record's value in words: ``rank 16, alpha none``; lists by commas."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)


def _angle(a: Delta, b: Delta) -> Angle:
    """The cosine, or None and the reason: other bases, zero length, singular values shifted without their basis."""
    if a is b:
        return (1.0, "") if a.norm() > 0 else (None, "zero")
    if a.base.root != b.base.root and a.changes.keys().isdisjoint(b.changes):
        return None, "no parameter in common, and other bases"
    try:
        cosine = a.cosine(b)
    except BaseMismatch:
        return None, "different bases"
    except DthetaError as error:
        return None, str(error)
    return (cosine, "") if not math.isnan(cosine) else (None, "one is zero")


def _names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """File stems; where two are alike, with their folders."""
    stems = [Path(path).stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else str(Path(path).with_suffix(""))
        for stem, path in zip(stems, paths, strict=True)
    ]
