"""The client's side of a secure sum.

    keys     -> two public keys, for boxes and for masks
    shares   -> digest of the self mask's seed; for every other client a box with its shares of seed and mask secret
    masked   -> x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)   modulo 2^b
    unmask   -> of those who sent a masked vector the shares of seeds, of those who did not the shares of mask secrets

Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", figure 4, against a server
that is curious and follows the protocol: without signatures and consistency check. We add a digest of each seed, so
that a wrong share is noticed. A client never gives both shares of another one, and answers each phase once.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from torch import Tensor

from dtheta.errors import ConfigError, FormatError, ShapeMismatch
from dtheta.federate.secure.masks import KEY_BYTES, TAG_BYTES, agreed, boxed, mask, new_secret, public_of, unboxed
from dtheta.federate.secure.ring import Residues, packed, reduced
from dtheta.federate.secure.session import Phase, Session, listed, listing
from dtheta.federate.secure.shamir import SHARE_BYTES, shares

BOX_BYTES = 2 * SHARE_BYTES + TAG_BYTES


class SecureClient:
    """One client in one session: ``advertise``, ``share``, ``mask`` and ``unmask``, each once and in this order.

    Attributes:
        session: The terms.
        index: Which of the session's clients this is.

    Raises:
        ConfigError: If the session has no client of that name.
    """

    def __init__(self, session: Session, name: str) -> None:
        if name not in session.clients:
            raise ConfigError(f"the session has no client {name!r}; it has {', '.join(session.clients[:5])}")
        self.session = session
        self.index = session.clients.index(name)
        self._next = Phase.KEYS
        self._box_secret, self._mask_secret, self._seed = new_secret(), new_secret(), secrets.token_bytes(KEY_BYTES)
        self._keys: dict[int, bytes] = {}  # of all: public key for boxes, public key for masks
        self._shares: dict[int, bytes] = {}  # for this client, of all: of the seed, of the mask secret

    def respond(self, phase: Phase, message: bytes, vector: Tensor) -> bytes:
        """Return the message of a phase, from the server's; only ``MASKED`` looks at the vector."""
        if phase is Phase.KEYS:
            return self.advertise()
        if phase is Phase.SHARES:
            return self.share(message)
        return self.mask(vector, message) if phase is Phase.MASKED else self.unmask(message)

    def advertise(self) -> bytes:
        """Return the message with the public keys."""
        return self._answer(Phase.KEYS, self._public)

    def share(self, keys: bytes) -> bytes:
        """Return the message with shares for the others, from the server's message with all public keys.

        Raises:
            FormatError: If it is no such message, without this client's keys, or with a key twice.
            BelowThreshold: If too few clients have sent keys.
        """
        found = listed(self._body(keys, Phase.SHARES), 2 * KEY_BYTES, len(self.session.clients))
        self.session.enough(len(found), Phase.KEYS)
        if found.get(self.index) != self._public:
            raise FormatError("the server's keys of this client are not those that it sent")
        single = {key[half : half + KEY_BYTES] for key in found.values() for half in (0, KEY_BYTES)}
        if len(single) != 2 * len(found):
            raise FormatError("two clients have the same public key")
        self._keys = found
        points = [index + 1 for index in found]
        parts = [shares(secret, self.session.threshold, points) for secret in (self._seed, self._mask_secret)]
        both = {index: parts[0][index + 1] + parts[1][index + 1] for index in found}
        self._shares[self.index] = both.pop(self.index)
        boxes = {index: self._box(index, text) for index, text in both.items()}
        return self._answer(Phase.SHARES, hashlib.sha256(self._seed).digest() + listing(boxes))

    def mask(self, vector: Tensor, boxes: bytes) -> bytes:
        """Return the message with the masked vector, from the server's message with the others' shares.

        Args:
            vector: (length,), integers -1, 0 and 1.
            boxes: The server's message for this client.

        Raises:
            FormatError: If it is no such message, or a box was changed.
            BelowThreshold: If too few clients have sent shares.
            ShapeMismatch, ConfigError: If the vector is not what the session is about.
        """
        values = _ternary(vector, self.session.length)
        found = listed(self._body(boxes, Phase.MASKED), BOX_BYTES, len(self.session.clients))
        if self.index in found or not set(found) <= set(self._keys):
            raise FormatError("shares of this client itself, or of one without keys")
        self.session.enough(len(found) + 1, Phase.SHARES)
        self._shares |= {index: self._unbox(index, box) for index, box in found.items()}
        total = reduced(values, self.session.bits) + mask(self._seed, self.session.length, self.session.bits)
        for other in found:
            pair = pair_seed(self.session, self._mask_secret, self._keys[other][KEY_BYTES:], self.index, other)
            add_pair_mask(total, pair, self.index, other, self.session)
        return self._answer(Phase.MASKED, packed(reduced(total, self.session.bits), self.session.bits))

    def unmask(self, survivors: bytes) -> bytes:
        """Return the message with the shares by which the sum is unmasked, from the server's list of survivors.

        Raises:
            FormatError: If it is no such list, without this client, or with one that has sent no shares.
            BelowThreshold: If too few clients have sent masked vectors.
        """
        found = set(listed(self._body(survivors, Phase.UNMASK), 0, len(self.session.clients)))
        self.session.enough(len(found), Phase.MASKED)
        if self.index not in found or not found <= set(self._shares):
            raise FormatError("the survivors are not this client and others that have sent shares")
        halves = {index: (both[:SHARE_BYTES], both[SHARE_BYTES:]) for index, both in self._shares.items()}
        answer = {index: half[index not in found] for index, half in halves.items()}
        self._shares = {}  # nobody shall get the other halves
        return self._answer(Phase.UNMASK, listing(answer))

    @property
    def _public(self) -> bytes:
        return public_of(self._box_secret) + public_of(self._mask_secret)

    def _body(self, message: bytes, phase: Phase) -> bytes:
        self._expect(phase)
        return self.session.from_server(message, phase)

    def _answer(self, phase: Phase, body: bytes) -> bytes:
        self._expect(phase)
        self._next = phase + 1  # type: ignore[assignment]  # after the last, a phase that never comes
        return self.session.message(phase, self.index, body)

    def _expect(self, phase: Phase) -> None:
        if phase != self._next:
            raise FormatError(f"phase {phase.name.lower()} was answered already, or is not due yet")

    def _box(self, other: int, text: bytes) -> bytes:
        key, context = self._box_key(other, self.index, other)
        return boxed(key, text, context)

    def _unbox(self, other: int, box: bytes) -> bytes:
        key, context = self._box_key(other, other, self.index)
        text = unboxed(key, box, context)
        if text is None:
            raise FormatError(f"the shares of {self.session.clients[other]!r} were changed on their way")
        return text

    def _box_key(self, other: int, sender: int, receiver: int) -> tuple[bytes, bytes]:
        context = _purpose(self.session, b"box", sender, receiver)
        return agreed(self._box_secret, self._keys[other][:KEY_BYTES], context), context


def pair_seed(session: Session, secret: bytes, public: bytes, one: int, other: int) -> bytes:
    """Return the seed of two clients' mask, from the secret of one and the public key of the other."""
    return agreed(secret, public, _purpose(session, b"mask", min(one, other), max(one, other)))


def add_pair_mask(total: Residues, seed: bytes, index: int, other: int, session: Session) -> None:
    """Add the mask that client ``index`` shares with another to ``total``, in place: + below, - above the diagonal."""
    found = mask(seed, session.length, session.bits)
    if index < other:
        np.add(total, found, out=total)
    else:
        np.subtract(total, found, out=total)


def _purpose(session: Session, what: bytes, one: int, other: int) -> bytes:
    return b"dtheta " + what + session.digest + one.to_bytes(4, "little") + other.to_bytes(4, "little")


def _ternary(vector: Tensor, length: int) -> np.ndarray:
    if tuple(vector.shape) != (length,) or vector.dtype.is_floating_point or vector.dtype.is_complex:
        raise ShapeMismatch(f"a vector {tuple(vector.shape)} of {vector.dtype}; expected ({length},) integers")
    if length and not -1 <= int(vector.min()) <= int(vector.max()) <= 1:
        raise ConfigError(f"entries from {int(vector.min())} to {int(vector.max())}; expected -1, 0 and 1")
    return vector.detach().cpu().numpy().astype(np.int32)
