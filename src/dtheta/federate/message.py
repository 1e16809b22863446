"""Messages of a federation: what the server asks of a client in a round, and what comes back.

    4 bytes   "DTFM"
    4 bytes   length of the header, little-endian
    header    JSON: the kind, the fields, and of every payload its length, bits, qubits and copies
    rest      the payloads, one after the other

Whatever a header claims is held against the bytes that are there before anything is cut out of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from dtheta.core.tensorfile import encode, parse_json
from dtheta.errors import FormatError
from dtheta.federate.payload import Payload

_MAGIC, _LIMIT = b"DTFM", 1 << 20  # a header holds names, digests and numbers, and no tensors
_MOST = 1 << 62  # that something is counted to: a double holds about so much, and 64 bits do
_HEAD = struct.Struct("<4sI")
_COUNTS = tuple(one.name for one in fields(Payload) if one.name != "data")
M = TypeVar("M", bound="_Message")


@dataclass(frozen=True)
class _Message:
    """Fields that are plain values, and payloads."""

    kind: ClassVar[str]

    def to_bytes(self) -> bytes:
        """Return the message as bytes."""
        record: dict[str, Any] = {"kind": self.kind}
        payloads: list[Payload] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "payloads":
                payloads = list(value)
                record[one.name] = [[len(p.data), *(getattr(p, name) for name in _COUNTS)] for p in payloads]
            else:
                record[one.name] = dict(value) if isinstance(value, Mapping) else value
        header = encode(record)
        return b"".join([_HEAD.pack(_MAGIC, len(header)), header, *(p.data for p in payloads)])

    @classmethod
    def from_bytes(cls: type[M], data: bytes) -> M:
        """Return the message that ``to_bytes`` wrote.

        Raises:
            FormatError: If it is another one, or damaged.
        """
        found = message(data)
        if not isinstance(found, cls):
            raise FormatError(f"a message of kind {found.kind!r}; expected {cls.kind!r}")
        return found


@dataclass(frozen=True)
class Task(_Message):
    """What a client is asked: bring its copy of the global delta up to date, train, and answer.

    Attributes:
        client: Name of the client.
        round: Counted from 1.
        seed: Of the federation.
        frame: Digest of what may travel.
        origin: Digest of the global delta that the payloads are added to; empty where they hold all of it.
        start: Digest of the global delta that they lead to; empty where nothing has been learned yet.
        version: Number of that global delta.
        oldest: Number of the oldest global delta that a later task may build upon.
        codec: Of the answer.
        downlink: Codec of the payloads that are updates; the whole of the global delta travels exactly.
        clip: Largest norm of the answer's delta; None for any.
        secure: How the answer becomes integers that are summed securely; empty where it travels by itself.
        payloads: The global delta, or updates of it in order.
    """

    kind: ClassVar[str] = "task"
    client: str
    round: int
    seed: int
    frame: str
    origin: str = ""
    start: str = ""
    version: int = 0
    oldest: int = 0
    codec: Mapping[str, Any] = field(default_factory=dict)
    downlink: Mapping[str, Any] = field(default_factory=dict)
    clip: float | None = None
    secure: Mapping[str, Any] = field(default_factory=dict)
    payloads: tuple[Payload, ...] = ()


@dataclass(frozen=True)
class Reply(_Message):
    """A client's answer: the change of this round alone, relative to the base.

    Attributes:
        client: Name of the client.
        round: That of the task.
        frame: Digest of what may travel, as the client has it.
        start: Digest of the global delta that it trained from.
        examples: How many it has: its weight in the mean.
        metrics: Numbers that the client measured.
        payloads: One, the delta; none where it is summed securely.
    """

    kind: ClassVar[str] = "reply"
    client: str
    round: int
    frame: str
    start: str
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    payloads: tuple[Payload, ...] = ()


@dataclass(frozen=True)
class Failure(_Message):
    """Why a client does not count in a round.

    Attributes:
        client: Name of the client.
        round: That of the task.
        reason: One word, see ``REASONS``.
        detail: What happened.
    """

    kind: ClassVar[str] = "failure"
    client: str
    round: int
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


#: Why a client may be left out of a round.
REASONS: Mapping[str, str] = {
    "died": "raised an error, or its process ended",
    "hung": "did not answer in time",
    "dropped": "was asked and stayed silent, as simulated",
    "nan": "trained to NaN or infinity",
    "shape": "answered with other parameters or shapes",
    "base": "has another base",
    "corrupted": "what came cannot be read, or is larger than allowed",
    "stale": "answered for another round, or from another global delta",
    "uninvited": "was not asked, or answered twice",
    "lost": "a payload did not arrive",
    "aborted": "the channel was given up",
    "left": "left a secure sum before it was in it",
    "examples": "claims a number of examples that is none",
}
_KINDS: dict[str, type[_Message]] = {kind.kind: kind for kind in (Task, Reply, Failure)}
_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float | None": (int, float, type(None)),
    "Mapping[str, Any]": dict,
    "Mapping[str, float]": dict,
    "tuple[Payload, ...]": list,
}


def message(data: bytes) -> Task | Reply | Failure:
    """Return the message that some bytes hold.

    Raises:
        FormatError: If they hold none, or a damaged one.
    """
    if len(data) < _HEAD.size:
        raise FormatError(f"a message of {len(data)} bytes; its head alone takes {_HEAD.size}")
    magic, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or length > min(_LIMIT, len(data) - _HEAD.size):
        raise FormatError(f"this is no message: it starts with {magic!r} and claims a header of {length:,} bytes")
    record = parse_json(data[_HEAD.size : _HEAD.size + length], "the header of a message")
    kind = _KINDS.get(str(record.pop("kind", None))) if isinstance(record, dict) else None
    if kind is None:
        raise FormatError("the header of a message names no kind that is known")
    _check(kind, record)
    if "payloads" in record:
        record["payloads"] = _payloads(record["payloads"], memoryview(data)[_HEAD.size + length :])
    elif len(data) != _HEAD.size + length:
        raise FormatError(f"{len(data) - _HEAD.size - length} bytes follow a message that ends before them")
    return kind(**record)  # type: ignore[return-value]  # one of the three in _KINDS


def _check(kind: type[_Message], record: Mapping[str, Any]) -> None:
    known = {one.name: one.type for one in fields(kind)}
    if set(record) != set(known):
        raise FormatError(f"a {kind.kind} with the fields {sorted(record)}; expected {sorted(known)}")
    for name, value in record.items():
        if isinstance(value, bool) or not isinstance(value, _TYPES[str(known[name])]):
            raise FormatError(f"the field {name} of a {kind.kind} is {value!r:.60}")
    for name, value in record.get("metrics", {}).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
            raise FormatError(f"the metric {name!r} is {value!r:.60}; expected a number")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _payloads(rows: Sequence[Any], rest: memoryview) -> tuple[Payload, ...]:
    if not all(isinstance(row, list) and len(row) == 1 + len(_COUNTS) and _counts(row) for row in rows):
        raise FormatError(f"the header of a message describes a payload wrongly; expected length, {', '.join(_COUNTS)}")
    if sum(row[0] for row in rows) != len(rest):
        raise FormatError(f"the payloads of a message claim {sum(r[0] for r in rows):,} bytes; found {len(rest):,}")
    found, at = [], 0
    for length, *counts in rows:
        found.append(Payload(bytes(rest[at : at + length]), *counts))
        at += length
    return tuple(found)


def _counts(row: Sequence[Any]) -> bool:
    """Tell whether these are counts; only those of copies may be missing."""
    given = [n for name, n in zip(("length", *_COUNTS), row, strict=True) if n is not None or name != "copies"]
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MOST for n in given)
