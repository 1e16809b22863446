"""Payload: the bytes of one delta on its way, and what they count for.

    26 bytes   "DTFP", version 1, codec, tag of the frame (16 bytes), CRC-32 of all other bytes
    body       the codec's streams, in the order of the frame

All numbers are little-endian. A payload is held against the frame and a cap before anything is allocated for it; the
CRC finds accidents, and what a hostile sender writes is checked by the codec.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from dtheta.errors import BaseMismatch, FormatError
from dtheta.federate.frame import Frame

MAGIC, VERSION = b"DTFP", 1
_HEAD = struct.Struct("<4sBB16s")
HEADER = _HEAD.size + 4  # bytes before the body


@dataclass(frozen=True)
class Payload:
    """What one sender hands to a channel.

    Attributes:
        data: The bytes. Of a quantum state, what a simulator carries in its place.
        bits: Classical bits that travel.
        qubits: Qubits that travel, all copies together.
        copies: Copies of the state that arrived or were sent; None if there is no state.
        mixed: Of the copies, those that noise or an eavesdropper has replaced by the fully mixed state.
    """

    data: bytes
    bits: int
    qubits: int = 0
    copies: int | None = None
    mixed: int = 0


def sealed(code: int, frame: Frame, body: bytes) -> bytes:
    """Return a body with its header; ``code`` (0..255) names the codec and what both sides must have set alike."""
    head = _HEAD.pack(MAGIC, VERSION, code, frame.tag)
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def opened(data: bytes, code: int, frame: Frame, what: str) -> memoryview:
    """Return the body of a payload, without a copy.

    Args:
        data: The bytes.
        code: The codec that they must be of.
        frame: The frame that they must be of.
        what: The codec for messages.

    Raises:
        FormatError: If they are no payload, damaged, of another codec, or of other parameters.
        BaseMismatch: If they are of another base.
    """
    if len(data) < HEADER:
        raise FormatError(f"a payload of {len(data)} bytes; its header alone takes {HEADER}")
    magic, version, found, tag = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise FormatError(f"this is no payload: it starts with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise FormatError(
            f"a payload of version {version}; this dtheta reads {VERSION}: take the same one on all sides"
        )
    view = memoryview(data)
    body = view[HEADER:]
    if zlib.crc32(body, zlib.crc32(view[: _HEAD.size])) != struct.unpack_from("<I", data, _HEAD.size)[0]:
        raise FormatError("a payload was damaged on its way: its CRC-32 does not match; send it again")
    if found != code:
        raise FormatError(f"a payload of codec {found}; expected {code} ({what}): set the same codec on all sides")
    if tag[:8] != frame.tag[:8]:
        raise FormatError("a payload of other parameters than this federation's; take the same method on all sides")
    if tag[8:] != frame.tag[8:]:
        raise BaseMismatch("a payload made on another base than this federation's; load the model that the server has")
    return body
