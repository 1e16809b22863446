"""Session: what all parties of one secure sum agree on beforehand, and the frame of its messages.

    message   "DTSA", version 1, phase, session (16 bytes), sender (4 bytes), body        all numbers little-endian

The session is named by a digest over its terms and a nonce that the server draws: a message of another session, such
as one of the round before, is refused. A sender is the index of a client, or `SERVER`.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from dtheta.core.arguments import whole
from dtheta.core.tensorfile import encode
from dtheta.errors import ConfigError, DthetaError, FormatError
from dtheta.federate.secure.ring import MOST_BITS, ring_bits

_HEAD = struct.Struct("<4sBB16sI")
MAGIC, VERSION = b"DTSA", 1
HEADER = _HEAD.size
SERVER = 0xFFFFFFFF
_MOST_CLIENTS = 2 ** (MOST_BITS - 2)


class Phase(IntEnum):
    """The four phases; a client sends one message in each."""

    KEYS = 1
    SHARES = 2
    MASKED = 3
    UNMASK = 4


class BelowThreshold(DthetaError):
    """Too few clients are left for the sum: it cannot be had, and nothing was learned of any client."""


@dataclass(frozen=True)
class Session:
    """The terms of one secure sum.

    Attributes:
        clients: Names; a client is known by its index among them.
        threshold: t, clients that must last to the end, and that together could open another one's mask.
        length: Entries of a vector.
        round: Number of the round.
        nonce: 16 bytes that no other session has.

    Raises:
        ConfigError: With fewer than two clients, two of one name, or a threshold that is not from 2 to their number.
    """

    clients: tuple[str, ...]
    threshold: int
    length: int
    round: int = 0
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def __post_init__(self) -> None:
        count = len(self.clients)
        if count < 2:
            raise ConfigError(f"a secure sum of {count} clients would show its vector; it takes at least 2")
        if len(set(self.clients)) != count or count > _MOST_CLIENTS:
            raise ConfigError(f"the names of {count} clients are not all different, or too many")
        if whole(self.threshold, "threshold") not in range(2, count + 1):
            raise ConfigError(f"threshold is {self.threshold}; expected 2 to {count}, the number of clients")
        whole(self.length, "length", least=0)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that name the session."""
        terms = [list(self.clients), self.threshold, self.length, self.round, self.nonce.hex()]
        return hashlib.sha256(encode(terms)).digest()[:16]

    @property
    def bits(self) -> int:
        """Bits of an entry of the sum."""
        return ring_bits(len(self.clients))

    def message(self, phase: Phase, sender: int, body: bytes) -> bytes:
        """Return a body with its header."""
        return _HEAD.pack(MAGIC, VERSION, phase, self.digest, sender) + body

    def opened(self, message: bytes, phase: Phase, size: int | None = None) -> tuple[int, bytes]:
        """Return sender and body of a message.

        Args:
            message: From anyone.
            phase: The one that it must be of.
            size: Bytes that the body must have, if known.

        Raises:
            FormatError: If it is no message of this session and phase, or of another size.
        """
        if len(message) < HEADER:
            raise FormatError(f"a message of {len(message)} bytes; its header alone takes {HEADER}")
        magic, version, found, digest, sender = _HEAD.unpack_from(message)
        if (magic, version) != (MAGIC, VERSION):
            raise FormatError(f"this is no message of a secure sum of version {VERSION}")
        if digest != self.digest:
            raise FormatError("a message of another session; it may be an old one that was sent again")
        if found != phase:
            raise FormatError(f"a message of phase {found}; expected {int(phase)} ({phase.name.lower()})")
        if sender != SERVER and sender >= len(self.clients):
            raise FormatError(f"sender {sender} of {len(self.clients)} clients")
        body = message[HEADER:]
        if size is not None and len(body) != size:
            raise FormatError(f"a message of phase {phase.name.lower()} with {len(body)} bytes; expected {size}")
        return sender, body

    def from_server(self, message: bytes, phase: Phase) -> bytes:
        """Return the body of a message of the server.

        Raises:
            FormatError: As ``opened``, or if a client sent it.
        """
        sender, body = self.opened(message, phase)
        if sender != SERVER:
            raise FormatError(f"a message of {self.clients[sender]!r}; expected the server's")
        return body

    def enough(self, count: int, phase: Phase) -> None:
        """Raise BelowThreshold unless ``count`` clients are enough after a phase."""
        if count < self.threshold:
            raise BelowThreshold(
                f"{count} of {len(self.clients)} clients are left after phase {phase.name.lower()}; the sum needs "
                f"{self.threshold}: repeat the round, or lower the threshold"
            )


def default_threshold(clients: int) -> int:
    """Return more than two thirds of the clients: no two groups of so many can be told different stories."""
    return 2 * clients // 3 + 1


def listed(body: bytes, width: int, clients: int) -> dict[int, bytes]:
    """Return records of an index (4 bytes) and ``width`` bytes, by index.

    Raises:
        FormatError: If they do not fill the body, an index is no client's, or they are not in increasing order.
    """
    if len(body) % (4 + width):
        raise FormatError(f"{len(body)} bytes are no whole number of records of {4 + width}")
    found: dict[int, bytes] = {}
    last = -1
    for at in range(0, len(body), 4 + width):
        index = int.from_bytes(body[at : at + 4], "little")
        if not last < index < clients:
            raise FormatError(f"record of client {index} after that of {last}, of {clients}: expected increasing order")
        found[index], last = body[at + 4 : at + 4 + width], index
    return found


def listing(records: dict[int, bytes]) -> bytes:
    """Return records as bytes, in increasing order."""
    return b"".join(index.to_bytes(4, "little") + records[index] for index in sorted(records))
