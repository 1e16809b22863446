"""Codec: how a delta becomes the bytes of a payload, and what the receiver makes of them.

    encode    delta -> payload        the frame is known to both sides, so names and shapes do not travel
    decode    payload -> delta        every byte may be hostile: FormatError, and never more memory than the cap

A codec is a frozen dataclass: its fields are its configuration, in Python and in YAML. A new one of bits gives
``name``, ``code``, ``_body`` and ``_changes``, and stands in the list of registry.py.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from dtheta.adapt.fields import settle_fields
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.errors import FormatError
from dtheta.federate.codecs.reader import Reader
from dtheta.federate.frame import Frame
from dtheta.federate.payload import Payload, opened, sealed


class Codec(ABC):
    """How deltas travel. Subclasses are frozen dataclasses, whose fields are checked against their types."""

    #: In messages and configuration.
    name: ClassVar[str]
    #: Multiple of 16 that stands for the codec in a payload; ``variant`` is added.
    code: ClassVar[int]
    #: Whether the delta arrives as it was sent, so that error feedback has nothing to feed back.
    exact: ClassVar[bool] = False
    #: Whether what arrives is drawn by the receiver, so that the sender cannot know it.
    drawn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        settle_fields(self)

    @property
    def variant(self) -> int:
        """0..15: the settings without which the bytes cannot be read."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return name and fields, as ``codec_of`` takes them."""
        return {"name": self.name, **dataclasses.asdict(self)}  # type: ignore[call-overload]  # subclasses are dataclasses

    @abstractmethod
    def encode(self, delta: Delta, frame: Frame, *, seed: int, key: str) -> Payload:
        """Return a delta as a payload.

        Args:
            delta: Of the frame; parameters that it leaves out do not change.
            frame: What may travel.
            seed: With ``key``, names the draws of a codec that draws.
            key: Such as "federate/3/client".

        Raises:
            UnknownParameter, ShapeMismatch, UnsupportedLayer, BaseMismatch: If it is not of the frame.
            NonFinite: If it holds NaN or infinity, or numbers beyond the dtype in which they would travel.
            ConfigError: If the codec cannot carry it.
        """

    @abstractmethod
    def decode(self, payload: Payload, frame: Frame, *, cap: int, seed: int, key: str) -> Delta:
        """Return the delta that a payload carries, of the frame's base.

        Args:
            payload: From anyone.
            frame: What may travel.
            cap: Bytes that payload and delta may take together, with what decoding needs meanwhile.
            seed: With ``key``, names the draws of a codec that draws.
            key: Such as "federate/3/client".

        Raises:
            FormatError: If it is damaged, of another codec or method, not finite, or takes more than ``cap``.
            BaseMismatch: If it is of another base.
        """

    @abstractmethod
    def check_counts(self, payload: Payload, frame: Frame) -> None:
        """Check what a payload, as its sender hands it to the channel, claims to count for.

        Raises:
            FormatError: If it claims other bits, qubits or copies than its codec needs.
        """

    def _opened(self, payload: Payload, frame: Frame, cap: int) -> Reader:
        room = cap - len(payload.data)
        if room < 0:
            raise FormatError(f"a payload of {len(payload.data):,} bytes; at most {cap:,} are allowed")
        return Reader(opened(payload.data, self.code + self.variant, frame, self.name), room)

    def _delta(self, changes: dict[str, Change], frame: Frame) -> Delta:
        uses = {} if frame.uses is None else {"uses": frame.uses}
        return Delta(changes, frame.base, Provenance("decode", settings={"codec": self.to_dict(), **uses}))


def counted(payload: Payload) -> str:
    """Return what a payload claims to count for, in words."""
    return f"{payload.bits:,} bits, {payload.qubits:,} qubits, {payload.copies} copies, {payload.mixed} of them mixed"


class BitCodec(Codec):
    """A codec all of whose bytes travel as bits, and that draws nothing."""

    def encode(self, delta: Delta, frame: Frame, *, seed: int = 0, key: str = "") -> Payload:
        """Return a delta as a payload; see ``Codec.encode``."""
        frame.require(delta)
        data = sealed(self.code + self.variant, frame, self._body(delta, frame))
        return Payload(data, 8 * len(data))

    def decode(self, payload: Payload, frame: Frame, *, cap: int, seed: int = 0, key: str = "") -> Delta:
        """Return the delta that a payload carries; see ``Codec.decode``."""
        body = self._opened(payload, frame, cap)
        changes = self._changes(body, frame)
        body.end()
        return self._delta(changes, frame)

    def check_counts(self, payload: Payload, frame: Frame) -> None:
        """Check that eight bits a byte travel and no qubits; see ``Codec.check_counts``."""
        if payload != Payload(payload.data, 8 * len(payload.data)):
            raise FormatError(f"a payload of {len(payload.data):,} bytes claims {counted(payload)}")

    @abstractmethod
    def _body(self, delta: Delta, frame: Frame) -> bytes:
        """Return a delta, known to be of the frame, as bytes."""

    @abstractmethod
    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        """Return the changes that a body holds, and leave nothing of it unread."""
