"""The server's side of a secure sum: it passes messages on, and removes the masks from their sum.

    sum of y_u over the survivors = sum x_u + sum PRG(b_u) +- PRG(s_uv) of survivors u with those who left, v

Seeds b_u of the survivors and mask secrets of those who left after sharing are put together from shares; which of the
two is asked for each client is settled once, by who has sent a masked vector. Messages are taken one by one: a bad one
raises and changes nothing, so that its sender can be left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from dtheta.errors import FormatError
from dtheta.federate.secure.client import BOX_BYTES, add_pair_mask, pair_seed
from dtheta.federate.secure.masks import KEY_BYTES, mask, public_of
from dtheta.federate.secure.ring import Residues, centered, packed_size, reduced, unpacked
from dtheta.federate.secure.session import SERVER, Phase, Session, listed, listing
from dtheta.federate.secure.shamir import SHARE_BYTES, recovered


class SecureServer:
    """The server in one session: ``receive`` a phase's messages, then ``keys``, ``boxes``, ``survivors`` or ``sum``.

    Attributes:
        session: The terms.
        phase: The phase whose messages are taken.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.phase = Phase.KEYS
        self._keys: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}
        self._masked: dict[int, Residues] = {}
        self._answers: dict[int, dict[int, bytes]] = {}

    def receive(self, message: bytes) -> None:
        """Take a client's message of the current phase.

        Raises:
            FormatError: If it is no such message, the second one of its sender, or not what the phase asks for.
        """
        sizes = {
            Phase.KEYS: 2 * KEY_BYTES,
            Phase.SHARES: KEY_BYTES + (len(self._keys) - 1) * (4 + BOX_BYTES),
            Phase.MASKED: packed_size(self.session.length, self.session.bits),
            Phase.UNMASK: len(self._digests) * (4 + SHARE_BYTES),
        }
        sender, body = self.session.opened(message, self.phase, sizes[self.phase])
        self._admit(sender)
        getattr(self, f"_take_{self.phase.name.lower()}")(sender, body)

    def _admit(self, sender: int) -> None:
        before: dict[Phase, dict[int, object]] = {
            Phase.SHARES: dict(self._keys),
            Phase.MASKED: dict(self._digests),
            Phase.UNMASK: dict(self._masked),
        }
        taken = {
            Phase.KEYS: self._keys,
            Phase.SHARES: self._digests,
            Phase.MASKED: self._masked,
            Phase.UNMASK: self._answers,
        }
        if sender == SERVER or (self.phase in before and sender not in before[self.phase]):
            raise FormatError(f"sender {sender} has not taken part in the phase before {self.phase.name.lower()}")
        if sender in taken[self.phase]:
            raise FormatError(
                f"{self.session.clients[sender]!r} has sent two messages in phase {self.phase.name.lower()}"
            )

    def _take_keys(self, sender: int, body: bytes) -> None:
        self._keys[sender] = body

    def _take_shares(self, sender: int, body: bytes) -> None:
        boxes = listed(body[KEY_BYTES:], BOX_BYTES, len(self.session.clients))
        if set(boxes) != set(self._keys) - {sender}:
            raise FormatError(f"the shares of {self.session.clients[sender]!r} are not for all others")
        self._digests[sender], self._boxes[sender] = body[:KEY_BYTES], boxes

    def _take_masked(self, sender: int, body: bytes) -> None:
        self._masked[sender] = unpacked(body, self.session.length, self.session.bits)

    def _take_unmask(self, sender: int, body: bytes) -> None:
        found = listed(body, SHARE_BYTES, len(self.session.clients))
        if set(found) != set(self._digests):
            raise FormatError(f"{self.session.clients[sender]!r} has not sent a share of every client's")
        self._answers[sender] = found

    def keys(self) -> bytes:
        """End the phase of keys and return the message for all clients that sent theirs.

        Raises:
            BelowThreshold: If too few have.
        """
        self._end(Phase.KEYS, len(self._keys))
        return self.session.message(Phase.SHARES, SERVER, listing(self._keys))

    def boxes(self) -> dict[str, bytes]:
        """End the phase of shares and return the message for each client that sent its own, by name.

        Raises:
            BelowThreshold: If too few have.
        """
        self._end(Phase.SHARES, len(self._digests))
        found = {to: {by: boxes[to] for by, boxes in self._boxes.items() if by != to} for to in self._digests}
        self._boxes = {}
        names = self.session.clients
        return {names[to]: self.session.message(Phase.MASKED, SERVER, listing(box)) for to, box in found.items()}

    def survivors(self) -> bytes:
        """End the phase of masked vectors and return the message for all that sent one.

        Raises:
            BelowThreshold: If too few have.
        """
        self._end(Phase.MASKED, len(self._masked))
        return self.session.message(Phase.UNMASK, SERVER, listing(dict.fromkeys(self._masked, b"")))

    def sum(self) -> tuple[Tensor, list[str]]:
        """Return the exact sum (length,), int32, and whose vectors are in it.

        Raises:
            BelowThreshold: If too few clients have sent shares.
            FormatError: If shares do not give what was shared: a client has sent a wrong one.
        """
        self._end(Phase.UNMASK, len(self._answers))
        session, total = self.session, np.zeros(self.session.length, np.uint32)
        for index, masked in self._masked.items():
            np.add(total, masked, out=total)
            seed = self._recovered(index, "the seed")
            if hashlib.sha256(seed).digest() != self._digests[index]:
                raise self._wrong(index, "the seed")
            np.subtract(total, mask(seed, session.length, session.bits), out=total)
        for index in set(self._digests) - set(self._masked):
            self._remove(index, total)
        found = centered(reduced(total, session.bits), session.bits)
        return torch.from_numpy(found), [session.clients[index] for index in sorted(self._masked)]

    def _remove(self, left: int, total: Residues) -> None:
        """Take the masks that the survivors share with one who left out of the total."""
        secret = self._recovered(left, "the mask secret")
        if public_of(secret) != self._keys[left][KEY_BYTES:]:
            raise self._wrong(left, "the mask secret")
        for index in self._masked:
            seed = pair_seed(self.session, secret, self._keys[index][KEY_BYTES:], left, index)
            add_pair_mask(total, seed, left, index, self.session)  # the opposite of what the survivor added

    def _recovered(self, index: int, what: str) -> bytes:
        found = {sender + 1: answer[index] for sender, answer in self._answers.items()}
        secret = recovered(found, self.session.threshold)
        if secret is None:
            raise self._wrong(index, what)
        return secret

    def _wrong(self, index: int, what: str) -> FormatError:
        return FormatError(
            f"the shares do not give {what} of {self.session.clients[index]!r}: a client has sent a wrong one, and the "
            "sum cannot be unmasked; repeat the round without those that you do not trust"
        )

    def _end(self, phase: Phase, count: int) -> None:
        if self.phase != phase:
            raise FormatError(f"phase {phase.name.lower()} is not due; it is {self.phase.name.lower()}")
        self.session.enough(count, phase)
        if phase != Phase.UNMASK:
            self.phase = Phase(phase + 1)


def conducted(
    session: Session, exchange: Callable[[SecureServer, Mapping[str, bytes]], Collection[str]]
) -> tuple[Tensor, list[str]]:
    """Return the sum of a session and whose vectors are in it.

    Args:
        session: The terms.
        exchange: Brings the messages of the server's phase to clients, by name, and their answers to ``receive``;
            returns the names of all who have left up to then.

    Raises:
        BelowThreshold: If too few clients last.
        FormatError: If the sum cannot be unmasked because of a wrong share.
    """
    server, left = SecureServer(session), list(session.clients)

    def phase(messages: Mapping[str, bytes]) -> None:
        gone = exchange(server, {name: messages[name] for name in left})
        left[:] = [name for name in left if name not in gone]

    phase(dict.fromkeys(left, b""))
    phase(dict.fromkeys(left, server.keys()))
    phase(server.boxes())
    phase(dict.fromkeys(left, server.survivors()))
    return server.sum()
