"""A secure sum over an engine: four phases of messages, each through the channel, each counted.

The server gets the sum of the integers that clients made of their deltas, and none of them by itself (see secure/). A
client whose message does not come, or is none, leaves; the sum is had as long as enough are left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dtheta.errors import FormatError
from dtheta.federate.engine import Engine
from dtheta.federate.message import Failure
from dtheta.federate.secure.server import SecureServer, conducted
from dtheta.federate.secure.session import Session, default_threshold
from dtheta.federate.traffic import Traffic


@dataclass(frozen=True)
class Summed:
    """What a secure sum gave.

    Attributes:
        total: The sum (k,), int32.
        included: Whose integers are in it.
        failed: Who left, and why.
    """

    total: Tensor
    included: Sequence[str]
    failed: Sequence[Failure]


def secure_sum(
    engine: Engine, names: Sequence[str], length: int, threshold: int | None, round: int, traffic: Traffic
) -> Summed:
    """Return the sum of the integers that clients hold.

    Args:
        engine: What reaches them.
        names: Of the clients that have answered in this round.
        length: Integers each, k.
        threshold: Clients that must last; more than two thirds if None.
        round: Number of the round.
        traffic: What carries and counts the messages.

    Raises:
        BelowThreshold: If too few last.
        FormatError: If the sum cannot be unmasked because of a wrong share.
        ConfigError: For fewer than two clients, or a threshold above their number.
        MissingExtra: Without cryptography.
    """
    session = Session(tuple(names), default_threshold(len(names)) if threshold is None else threshold, length, round)
    failed = dict[str, Failure]()

    def exchange(server: SecureServer, messages: Mapping[str, bytes]) -> Collection[str]:
        phase = server.phase
        reached = {n: text for n, text in messages.items() if traffic.message(n, round, text, "down") is not None}
        answers = engine.secure(session, phase, reached)
        for name in messages:
            answer = answers.get(name, Failure(name, round, "lost", f"the message of phase {phase.name.lower()}"))
            failure = _taken(server, answer, name, round, traffic)
            if failure is not None:
                failed[name] = failure
        return failed

    total, included = conducted(session, exchange)
    return Summed(total, included, [f for name, f in failed.items() if name not in included])


def _taken(server: SecureServer, answer: bytes | Failure, name: str, round: int, traffic: Traffic) -> Failure | None:
    """Give the server a client's answer; return why it leaves."""
    if isinstance(answer, Failure):
        return answer
    arrived = traffic.message(name, round, answer, f"up/{server.phase.name}")
    if arrived is None:
        return Failure(name, round, "lost", f"its message of phase {server.phase.name.lower()}")
    try:
        server.receive(arrived)
    except FormatError as error:
        return Failure(name, round, "corrupted", str(error)[:500])
    return None
