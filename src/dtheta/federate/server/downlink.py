"""Downlink: what the server tells clients of the global delta, and what each of them knows.

    version v          G_v, told whole and exactly, or as the updates since a version that the client has
    update v           u_v = decoded(C(step_v + e_{v-1})),  e_v = step_v + e_{v-1} - u_v,  G_v = G_{v-1} + u_v

A client gets what takes fewer bits. The server applies the update as clients will decode it, so both sides hold the
same bits, and what the codec left out goes with the next update (error feedback, as in DoubleSqueeze: Tang et al. 2019,
arXiv 1905.05957). A client that was away for more than ``WINDOW`` updates gets all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dtheta.core.delta import Delta
from dtheta.federate.codecs import Codec, Exact
from dtheta.federate.codecs.feedback import Feedback
from dtheta.federate.frame import Frame
from dtheta.federate.party import cap_of, update_key
from dtheta.federate.payload import Payload
from dtheta.federate.total import moved

WINDOW = 8


@dataclass(frozen=True)
class Version:
    """A global delta that clients may know.

    Attributes:
        number: How many updates led to it.
        digest: Its identity; empty where nothing has been learned.
        update: The last of these updates; None for the first version.
    """

    number: int
    digest: str
    update: Payload | None


class Downlink:
    """The versions of the global delta.

    Attributes:
        delta: The global delta.
        versions: Those that are still worth building upon, the current at the end.
        known: Number of the version that each client has; clients that have none are not in it.
        feedback: What the codec left out.
    """

    def __init__(self, codec: Codec, frame: Frame, seed: int, beginning: Delta) -> None:
        self.codec, self.frame, self.seed = codec, frame, seed
        self.delta = beginning
        self.versions = [Version(0, _digest(beginning), None)]
        self.known: dict[str, int] = {}
        self.feedback = Feedback()
        self._whole: tuple[int, Payload] | None = None

    @property
    def current(self) -> Version:
        """The version that tasks lead to."""
        return self.versions[-1]

    def message(self, client: str) -> tuple[str, tuple[Payload, ...]]:
        """Return the digest that payloads build upon (empty: on nothing) and the payloads for a client."""
        if not self.current.digest:
            return "", ()
        known = self.known.get(client)
        origin = next((v for v in self.versions if v.number == known and v.digest), None)
        if origin is None:
            return "", (self.whole(),)
        return origin.digest, tuple(
            v.update for v in self.versions if v.number > origin.number and v.update is not None
        )

    def whole(self) -> Payload:
        """Return the current version as one payload; made once a version."""
        number = self.current.number
        if self._whole is None or self._whole[0] != number:
            key = f"federate/global/{number}"
            self._whole = (number, Exact().encode(self.delta, self.frame, seed=self.seed, key=key))
        return self._whole[1]

    def advance(self, step: Delta) -> None:
        """Take a step: the next version is what clients get from its update."""
        number = self.current.number + 1
        key = update_key(number)
        update = self.feedback.encode(self.codec, step, self.frame, seed=self.seed, key=key)
        arrived = self.codec.decode(update, self.frame, cap=cap_of(self.frame), seed=self.seed, key=key)
        self.delta = moved(self.delta, arrived, self.frame)
        self.versions.append(Version(number, _digest(self.delta), update))
        self._prune()

    def _prune(self) -> None:
        """Drop the versions from which the updates take as many bits as all of the global delta."""
        limit, cost, kept = _cost(self.whole()), 0, [self.current]
        for newer, older in zip(self.versions[:0:-1], self.versions[-2::-1], strict=True):
            cost += _cost(newer.update)
            if cost >= limit or len(kept) > WINDOW:
                break
            kept.insert(0, older)
        self.versions = kept

    def learned(self, client: str, version: int) -> None:
        """Note that a client has a version."""
        self.known[client] = version

    def forgotten(self, client: str) -> None:
        """Note that it is not known what a client has: it gets all of the global delta next."""
        self.known.pop(client, None)


def _cost(payload: Payload | None) -> int:
    return 0 if payload is None else payload.bits + payload.qubits


def _digest(delta: Delta) -> str:
    return delta.digest if len(delta) else ""
