"""Admission: an answer counts when it was asked for, came through, can be read, and fits.

Nothing in an answer is trusted: each claim is checked before it is used, and a payload is decoded within a cap of a
small multiple of the dense parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from dtheta.core.delta import Delta
from dtheta.errors import BaseMismatch, DthetaError, FormatError, NonFinite
from dtheta.federate.codecs import codec_of
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.party import answer_key, cap_of, failure, with_basis

LARGEST = 1 << 40  # examples that a client may claim
LONGEST = 2.0**64  # norm of an answer: sums of many such are far from the end of float32, and no training leads there


def matched(
    tasks: Sequence[Task], answers: Iterable[Reply | Failure]
) -> tuple[dict[str, Reply | Failure], list[Failure]]:
    """Return one answer or failure for every task, and a failure for each answer that no task asked for."""
    asked = {task.client: task for task in tasks}
    found: dict[str, Reply | Failure] = {}
    odd = []
    for answer in answers:
        if answer.client not in asked:
            odd.append(Failure(answer.client, answer.round, "uninvited", "this client was not asked"))
        elif answer.client in found:
            odd.append(Failure(answer.client, answer.round, "uninvited", "it answered already"))
        else:
            found[answer.client] = answer
    for name, task in asked.items():
        found.setdefault(name, Failure(name, task.round, "hung", "no answer came"))
    return {name: found[name] for name in asked}, odd


def refusal(reply: Reply, task: Task, frame: Frame) -> Failure | None:
    """Return why an answer cannot be one to a task, before anything in its payload is looked at, or travels."""

    def refused(reason: str, detail: str) -> Failure:
        return Failure(task.client, task.round, reason, detail)

    if reply.round != task.round:
        return refused("stale", f"it answers round {reply.round}, asked was {task.round}")
    if reply.frame != task.frame:
        return refused("base", "its base, method or selection is another")
    if reply.start != task.start:
        return refused("stale", "it trained from another global delta")
    if not 1 <= reply.examples <= LARGEST:
        return refused("examples", f"it claims {reply.examples} examples")
    wanted = 0 if task.secure else 1
    if len(reply.payloads) != wanted:
        return refused("corrupted", f"it has {len(reply.payloads)} payloads, expected {wanted}")
    try:
        for payload in reply.payloads:
            codec_of(dict(task.codec)).check_counts(payload, frame)
    except FormatError as error:
        return refused("corrupted", str(error))
    return None


def admitted(reply: Reply, task: Task, frame: Frame, model: nn.Module) -> Delta | Failure:
    """Return the delta that an answer carries, which ``refusal`` has let through, or why it does not count."""
    try:
        codec = codec_of(dict(task.codec))
        found = codec.decode(reply.payloads[0], frame, cap=cap_of(frame), seed=task.seed, key=answer_key(task))
        frame.require(found)
        found = with_basis(found, model)
        if not (norm := found.norm()) <= LONGEST:
            raise NonFinite(f"its delta has the norm {norm:.3g}, to which no training leads")
        return found
    except DthetaError as error:
        known = isinstance(error, (BaseMismatch, NonFinite))
        why = failure(task, error)
        return why if known or why.reason != "died" else Failure(task.client, task.round, "corrupted", str(error)[:500])
    except MemoryError:
        return Failure(task.client, task.round, "corrupted", "decoding it takes more memory than there is")
