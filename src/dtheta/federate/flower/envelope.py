"""Envelope: bytes and short notes as the records of a Flower message, or of a client's state.

Bytes travel as arrays, which Flower cuts into pieces of 5 MB; in a ConfigRecord they would be one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from dtheta.errors import FormatError
from dtheta.federate.flower.package import Array, ArrayRecord, ConfigRecord, RecordDict

_PARTS, _NOTES = "dtheta.parts", "dtheta.notes"
T = TypeVar("T", str, int, bool)


def put(records: RecordDict, parts: Mapping[str, bytes], notes: Mapping[str, str | int | bool]) -> None:
    """Write bytes and notes into records; what an earlier call wrote goes."""
    records[_PARTS] = ArrayRecord({name: Array("uint8", (len(data),), "bytes", data) for name, data in parts.items()})
    records[_NOTES] = ConfigRecord(dict(notes))


def content(parts: Mapping[str, bytes], **notes: str | int | bool) -> RecordDict:
    """Return bytes and notes as the content of a message."""
    records = RecordDict()
    put(records, parts, notes)
    return records


def part(records: RecordDict, name: str) -> bytes | None:
    """Return bytes by name; None where there are none."""
    found = _record(records, _PARTS, ArrayRecord).get(name)
    return None if found is None else found.data


def needed(records: RecordDict, name: str) -> bytes:
    """Return bytes by name.

    Raises:
        FormatError: If there are none.
    """
    found = part(records, name)
    if found is None:
        raise FormatError(f"a Flower message without {name!r}: both sides need one version of dtheta")
    return found


def note(records: RecordDict, name: str, default: T) -> T:
    """Return a note by name, of the default's type.

    Raises:
        FormatError: If it is of another type.
    """
    found = _record(records, _NOTES, ConfigRecord).get(name, default)
    if type(found) is not type(default):
        raise FormatError(f"the note {name!r} of a Flower message is {found!r:.60}")
    return found


def _record(records: RecordDict, name: str, kind: type[Any]) -> Any:
    found = records.get(name)
    return found if isinstance(found, kind) else kind()
