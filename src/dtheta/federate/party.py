"""The client's side of the protocol: bring the global delta up to date, train, encode, answer.

    known[origin] + updates = known[start]        or the whole global delta, where the payloads hold it

Both sides add the same decoded updates in the same way, so they hold the same bits; the digests in the task show it.
Whatever goes wrong becomes a ``Failure`` with a reason: a client never takes the round down with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dtheta.compress.feedback import left_over
from dtheta.core.apply import bind
from dtheta.core.delta import Delta
from dtheta.core.spectral import Spectral
from dtheta.errors import BaseMismatch, ConfigError, FormatError, NonFinite, ShapeMismatch, UnknownParameter
from dtheta.federate.client import Client
from dtheta.federate.codecs import Exact, codec_of
from dtheta.federate.codecs.feedback import Feedback
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.payload import Payload
from dtheta.federate.secure.ternary import Secure
from dtheta.federate.server.aggregate import shortened
from dtheta.federate.total import moved


class Stale(Exception):
    """A task builds upon a global delta that is not known here, or does not lead where it says."""


@dataclass
class Knowledge:
    """The global deltas that the clients of one process know, by digest; those that no task can build upon are dropped.

    Clients that share a process share what they know, so that a thousand of them hold it once.
    """

    versions: dict[str, tuple[int, Delta]] = field(default_factory=dict)

    def learn(self, version: int, delta: Delta) -> None:
        """Note a global delta."""
        self.versions[delta.digest] = (version, delta)

    def brought_up(self, task: Task, frame: Frame) -> Delta:
        """Return the global delta that a task starts from.

        Raises:
            Stale: If the payloads do not lead there from what is known.
            FormatError: If one is damaged.
        """
        if not task.start:
            return Delta({}, frame.base)
        if task.start not in self.versions or (task.origin and task.origin not in self.versions):
            found = self._followed(task, frame)
            if found.digest != task.start:
                raise Stale(
                    "what is known and the updates do not add up to the global delta; the whole of it is needed"
                )
            self.learn(task.version, found)
        self.versions = {d: held for d, held in self.versions.items() if held[0] >= task.oldest or d == task.start}
        return self.versions[task.start][1]

    def _followed(self, task: Task, frame: Frame) -> Delta:
        if not task.origin:
            if len(task.payloads) != 1:
                raise Stale(f"{len(task.payloads)} payloads in place of the whole global delta")
            key = f"federate/global/{task.version}"
            return Exact().decode(task.payloads[0], frame, cap=cap_of(frame), seed=task.seed, key=key)
        if task.origin not in self.versions:
            raise Stale("the updates are of a global delta that is not known here")
        codec, (number, found) = codec_of(dict(task.downlink)), self.versions[task.origin]
        for i, payload in enumerate(task.payloads, number + 1):
            key = update_key(i)
            found = moved(found, codec.decode(payload, frame, cap=cap_of(frame), seed=task.seed, key=key), frame)
        return found


@dataclass(frozen=True)
class Left:
    """What stays with a client after an answer.

    Attributes:
        residual: What its codec left out, for the next round.
        vector: Integers that wait for a secure sum; None without.
    """

    residual: Delta | None
    vector: Tensor | None = None


def cap_of(frame: Frame) -> int:
    """Return the bytes that a payload may take, with all that decoding it needs: four times the dense parameters.

    A megabyte comes on top, for headers and small frames.
    """
    return 4 * 4 * frame.numel + (1 << 20)


def own_bytes(delta: Delta, frame: Frame) -> bytes:
    """Return a delta as bytes that ``from_own_bytes`` reads, exactly; for processes and memories of one's own."""
    return Exact().encode(delta, frame, seed=0, key="own").data


def from_own_bytes(data: bytes, frame: Frame) -> Delta:
    """Return what ``own_bytes`` wrote; residuals are in float64, so the cap is above that of a payload.

    Raises:
        FormatError, BaseMismatch: If it is damaged, or of another frame.
    """
    cap = 4 * cap_of(frame) + 2 * len(data)
    return Exact().decode(Payload(data, 8 * len(data)), frame, cap=cap, seed=0, key="own")


def update_key(version: int) -> str:
    """Return the key under which the update that leads to a version travels."""
    return f"federate/update/{version}"


def answer_key(task: Task) -> str:
    """Return the key under which an answer travels."""
    return f"federate/{task.round}/{task.client}/answer"


def with_basis(delta: Delta, model: nn.Module) -> Delta:
    """Return a delta whose spectral changes, which travel without them, have the singular vectors of the base."""
    leaves = (leaf for change in delta.changes.values() for leaf in change.leaves())
    unbound = any(isinstance(leaf, Spectral) and not leaf.bound for leaf in leaves)
    return bind(delta, model) if unbound else delta


def identity(frame: Frame) -> str:
    """Return what server and client must agree on; new vectors touch no tensor, so their whole base counts."""
    return f"{frame.digest} {frame.base.root}" if frame.new else frame.digest


def respond(
    client: Client, task: Task, frame: Frame, knowledge: Knowledge, residual: Delta | None
) -> tuple[Reply | Failure, Left]:
    """Return a client's answer to a task, and what stays with it.

    Args:
        client: Who answers.
        task: What is asked.
        frame: What may travel, by the client's own model.
        knowledge: What it knows of the global delta; brought up to date.
        residual: What its codec left out before.
    """
    try:
        return _answer(client, task, frame, knowledge, residual)
    except (Exception, SystemExit) as error:  # user code runs in there: anything may come out
        return failure(task, error), Left(residual)


def _answer(
    client: Client, task: Task, frame: Frame, knowledge: Knowledge, residual: Delta | None
) -> tuple[Reply, Left]:
    if task.frame != identity(frame):
        raise BaseMismatch("this client's base, method or selection is not the server's")
    start = with_basis(knowledge.brought_up(task, frame), client.module())
    update = client.train(start, task.round, task.seed)
    delta = update.delta
    if task.clip is not None:
        delta = shortened(delta, delta.norm(), task.clip, frame)
    payloads, left = _secured(delta, frame, task, residual) if task.secure else _encoded(delta, frame, task, residual)
    reply = Reply(task.client, task.round, task.frame, task.start, update.examples, dict(update.metrics), payloads)
    return reply, left


def _encoded(delta: Delta, frame: Frame, task: Task, residual: Delta | None) -> tuple[tuple[Payload, ...], Left]:
    """Return an answer's payload and what it leaves out; where the receiver draws what arrives, nothing is kept."""
    codec = codec_of(dict(task.codec))
    if codec.drawn:
        return (codec.encode(delta, frame, seed=task.seed, key=answer_key(task)),), Left(None)
    feedback = Feedback(residual)
    payload = feedback.encode(codec, delta, frame, seed=task.seed, key=answer_key(task))
    left = feedback.state()
    return (payload,), Left(left if left is not None and left.norm() > 0 else None)  # nothing need not be kept


def _secured(delta: Delta, frame: Frame, task: Task, residual: Delta | None) -> tuple[tuple[Payload, ...], Left]:
    """Return no payload, the integers that stay here until they are summed, and what they leave out."""
    frame.require(delta)
    secure = secure_of(task)
    total = delta if residual is None else delta + residual
    support = secure.support(frame, task.seed, task.round)
    vector = secure.quantize(total, frame, support, seed=task.seed, key=answer_key(task))
    return (), Left(left_over(total, secure.dequantize(vector, frame, support)), vector)


def secure_of(task: Task) -> Secure:
    """Return how a task's answers are summed securely."""
    return Secure(**{name: value for name, value in task.secure.items() if name != "name"})


_REASONS: Mapping[type[BaseException], str] = {
    NonFinite: "nan",
    BaseMismatch: "base",
    ShapeMismatch: "shape",
    UnknownParameter: "shape",
    FormatError: "corrupted",
    Stale: "stale",
}


def failure(task: Any, error: BaseException) -> Failure:
    """Return why an error keeps a client out of the round."""
    reason = next((word for kind, word in _REASONS.items() if isinstance(error, kind)), "died")
    detail = str(error) or type(error).__name__
    named = detail if reason != "died" or isinstance(error, ConfigError) else f"{type(error).__name__}: {detail}"
    return Failure(task.client, task.round, reason, named[:500])
