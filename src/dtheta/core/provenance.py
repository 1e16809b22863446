"""Provenance: how a delta came to be. Method and its fields, operation, parents, seed, versions, time, task."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dtheta.errors import FormatError, did_you_mean


def versions() -> dict[str, str]:
    """Return the versions that can move a number: dtheta, Python, torch, numpy, safetensors."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("dtheta", "torch", "numpy", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree on the path, not installed
            found[package] = "unknown"
    return found


@dataclass(frozen=True)
class Provenance:
    """How a delta was made.

    Attributes:
        operation: "train", "extract", "add", "scale", ... ; the verb.
        method: Name and fields of the method, e.g. ``{"name": "PiSSA", "rank": 16}``; empty if none.
        parents: Digests of the deltas it was made of.
        settings: Other inputs of the operation: coefficients, steps, select.
        seed: Seed of the run, if it had one.
        task: What the delta is for: labels, pooling, names of data sets.
        versions: Package versions.
        created: UTC time, ISO 8601.
    """

    operation: str
    method: Mapping[str, Any] = field(default_factory=dict)
    parents: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    created: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    def with_task(self, **task: Any) -> Provenance:
        """Return this provenance with more said about the task."""
        return replace(self, task={**self.task, **task})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as stored in a file."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**record, "parents": list(self.parents)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Provenance:
        """Return the provenance that ``to_dict`` described.

        Raises:
            FormatError: For an unknown or missing field, or one of the wrong type.
        """
        known = {f.name: _TYPES[f.name] for f in fields(cls)}
        for name, value in record.items():
            if name not in known:
                raise FormatError(f"the provenance has an unknown field {name!r}{did_you_mean(name, known)}")
            if not isinstance(value, known[name]) or isinstance(value, bool):
                raise FormatError(f"the provenance field {name!r} is a {type(value).__name__}")
        missing = [name for name in known if name not in record]
        if missing:
            raise FormatError(f"the provenance has no field {missing[0]!r}")
        if not all(isinstance(parent, str) for parent in record["parents"]):
            raise FormatError("the parents in the provenance are not all digests")
        return cls(**record)


_TYPES: dict[str, Any] = {
    "operation": str,
    "method": dict,
    "parents": list,
    "settings": dict,
    "seed": (int, type(None)),
    "task": dict,
    "versions": dict,
    "created": str,
}
