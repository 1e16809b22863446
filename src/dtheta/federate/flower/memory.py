"""Memory: what a client keeps from one task to the next, in the state that its SuperNode holds for it.

A SuperNode may start a process for every task, so nothing else outlives one. Kept are the global delta of the last
task, on which the server builds the next, and what the codec left out: after the last answer, and before it. A server
that was killed and resumed asks for its last round once more, and gets the answer that it got before.
"""

from __future__ import annotations

from dataclasses import dataclass

from dtheta.core.delta import Delta
from dtheta.federate.flower import envelope
from dtheta.federate.flower.package import RecordDict
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.party import Knowledge, Stale, from_own_bytes, own_bytes


@dataclass(frozen=True)
class Memory:
    """What a client keeps.

    Attributes:
        round: Of the last task that it answered; 0 if there was none.
        version: Number of ``start``.
        start: The global delta of the last task; None before the first, and where nothing had been learned.
        before: What the codec had left out before that answer.
        after: What it left out after it.
    """

    round: int = 0
    version: int = 0
    start: Delta | None = None
    before: Delta | None = None
    after: Delta | None = None

    @classmethod
    def read(cls, state: RecordDict, frame: Frame) -> Memory:
        """Return what ``write`` wrote; an empty memory if it never did.

        Raises:
            FormatError, BaseMismatch: If it is damaged, or of another base or method.
        """
        found = {name: envelope.part(state, name) for name in ("start", "before", "after")}
        deltas = {name: None if data is None else from_own_bytes(data, frame) for name, data in found.items()}
        return cls(envelope.note(state, "round", 0), envelope.note(state, "version", 0), **deltas)

    def write(self, state: RecordDict, frame: Frame) -> None:
        """Write all into the state."""
        held = {"start": self.start, "before": self.before, "after": self.after}
        parts = {name: own_bytes(delta, frame) for name, delta in held.items() if delta is not None}
        envelope.put(state, parts, {"round": self.round, "version": self.version})

    def knowledge(self) -> Knowledge:
        """Return what is known of the global delta."""
        known = Knowledge()
        if self.start is not None:
            known.learn(self.version, self.start)
        return known

    def residual(self, round: int) -> Delta | None:
        """Return what the codec left out before a round.

        Raises:
            Stale: If a later round was answered already.
        """
        if round < self.round:
            raise Stale(
                f"this client has answered round {self.round} already, and is asked for round {round}: the server went "
                "on from an older state; start a federation anew, or give the server its last folder"
            )
        return self.before if round == self.round else self.after

    def then(self, task: Task, answer: Reply | Failure, knowledge: Knowledge, left: Delta | None) -> Memory:
        """Return the memory after a task, and what the codec left out; where it failed, only what is known changes."""
        version, start = knowledge.versions.get(task.start, (0, None))
        if isinstance(answer, Failure):
            return Memory(self.round, version, start, self.before, self.after)
        return Memory(task.round, version, start, self.residual(task.round), left)
