"""Joining: the answers of a round become one delta; by the server's aggregate, privately, late, or unseen.

aggregate      as the server says
private        (sum of clipped answers + noise) / expected number of clients
asynchronous   mixing * aggregate of (1 + staleness)^-exponent D_k
secure         sum of integers / number of clients, or with privacy (sum + noise) / expected number
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dtheta.core.delta import Delta
from dtheta.federate.engine import Engine
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.plan import Plan
from dtheta.federate.secure.ternary import Secure
from dtheta.federate.server.aggregate import Aggregate
from dtheta.federate.server.secure_sum import secure_sum
from dtheta.federate.total import weighted
from dtheta.federate.traffic import Traffic


@dataclass(frozen=True)
class Arrived:
    """An answer that counts: its task, the answer without its payload, and the delta that was in it."""

    task: Task
    reply: Reply
    delta: Delta


def joined(
    aggregate: Aggregate,
    plan: Plan,
    frame: Frame,
    arrived: Sequence[Arrived],
    missed: Sequence[int],
    clients: int,
    number: int,
) -> Delta:
    """Return the answers of a round as one delta.

    Args:
        aggregate: The server's.
        plan: Of the federation.
        frame: What travels.
        arrived: Answers that count.
        missed: Updates of the global delta that each of them has missed.
        clients: Number of all clients.
        number: Of the round.
    """  # fmt: skip
    deltas = [one.delta for one in arrived]
    if plan.privacy is not None:
        return plan.privacy.mean(deltas, plan.sample * clients, frame, seed=plan.seed, round=number)
    examples = [one.reply.examples for one in arrived]
    if plan.asynchronous is None:
        return aggregate.join(deltas, examples, frame)
    stale = [plan.asynchronous.weight(updates) for updates in missed]
    held = [weighted([delta], [weight], frame) for delta, weight in zip(deltas, stale, strict=True)]
    mixing = plan.asynchronous.mixing or min(1.0, plan.asynchronous.buffer / plan.at_work(clients))
    return weighted([aggregate.join(held, examples, frame)], [mixing], frame)


def summed(
    engine: Engine, secure: Secure, plan: Plan, frame: Frame, arrived: Sequence[Arrived], number: int, traffic: Traffic
) -> tuple[Delta, Sequence[Failure]]:
    """Return the mean of what clients sum securely, all of them alike, and who left meanwhile.

    Raises:
        BelowThreshold, FormatError: As ``secure_sum``.
    """
    support, names = secure.support(frame, plan.seed, number), [one.reply.client for one in arrived]
    found = secure_sum(engine, names, len(support), secure.threshold, number, traffic)
    total = secure.dequantize(found.total, frame, support)
    if plan.privacy is None:
        return weighted([total], [1 / len(found.included)], frame), found.failed
    expected = plan.sample * len(engine.names)
    noise = plan.privacy.mean([], expected, frame, seed=plan.seed, round=number)
    return weighted([total, noise], [1 / expected, 1.0], frame), found.failed
