"""FlowerEngine: clients at the nodes of a Flower grid, whether simulated, deployed, or in this process.

    task    ->  Message "train"   with the task's bytes
    answer  <-  its reply          with the answer's bytes; an error of Flower's becomes a failure with a reason

An answer counts for the client whose node sent it, whatever name it gives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from dtheta.core.arguments import number, whole
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FormatError
from dtheta.federate.flower import envelope
from dtheta.federate.flower.nodes import PAUSE, Nodes
from dtheta.federate.flower.package import Grid, Message
from dtheta.federate.message import Failure, Reply, Task, message
from dtheta.federate.secure.session import Phase, Session

_LOOK = 5.0  # seconds from one look at who is connected to the next
_DAYS = 7 * 86_400.0  # how long a message stays valid where nothing else ends it
_MARGIN = 60.0  # and how much longer than its deadline
_NO_SUMS = (
    "secure sums take clients that keep their keys from one phase to the next, and a SuperNode's process ends after "
    "each; leave secure out, or use dt.InProcess or dt.Processes"
)
_REASONS: Mapping[int, str] = {3: "lost", 4: "hung"}  # flwr.common.constant.ErrorCode: what is no death


class FlowerEngine:
    """An engine over Flower.

    Args:
        grid: What a ServerApp's main function gets.
        clients: The clients' names, in order, or how many there are; then they are ordered by name. A federation with
            ``sample`` below one draws by place in this order.
        wait: Seconds until all of them must have connected.

    Raises:
        ConfigError: If they are not there in time, a node cannot make its client, or two clients have one name.
    """

    def __init__(self, grid: Grid, clients: int | Sequence[str], *, wait: float = 600.0) -> None:
        self._grid = grid
        self._nodes = Nodes(grid)
        self._names = self._nodes.gathered(_checked(clients), number(wait, "wait"))
        self._fresh = True
        self._told: set[int] = set()

    @property
    def names(self) -> Sequence[str]:
        """The clients' names."""
        return list(self._names)

    def run(self, tasks: Sequence[Task], timeout: float | None = None) -> Sequence[Reply | Failure]:
        """Send tasks to their nodes, and wait for the answers.

        A client whose node leaves while it is waited for has died; Flower notices a node that was killed after two
        missed heartbeats, about a minute.

        Args:
            tasks: One a client.
            timeout: Seconds for all of them; None for as long as their nodes are connected.

        Raises:
            ConfigError: If they ask for a secure sum.
        """
        if any(task.secure for task in tasks):
            raise ConfigError(_NO_SUMS)
        self._nodes.look()
        at = {task.client: self._nodes.of(task.client) for task in tasks}
        answers = {
            task.client: Failure(task.client, task.round, "died", "its SuperNode is not connected")
            for task in tasks
            if at[task.client] is None
        }
        waiting = self._sent([(task, node) for task in tasks if (node := at[task.client]) is not None], timeout)
        answers |= self._collected(waiting, timeout)
        lost = [task for task in tasks if task.client not in answers]
        answers |= {t.client: Failure(t.client, t.round, "lost", "Flower did not take the message") for t in lost}
        return [answers[task.client] for task in tasks]

    def secure(self, session: Session, phase: Phase, messages: Mapping[str, bytes]) -> Mapping[str, bytes | Failure]:
        """Refuse.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(_NO_SUMS)

    def residuals(self) -> Mapping[str, Delta]:
        """Return nothing: clients keep what their codecs left out, see ``client_app``."""
        return {}

    def restore(self, residuals: Mapping[str, Delta], known: Sequence[tuple[int, Delta]]) -> None:
        """Begin, where nothing is known, and have the clients forget earlier federations; else go on with theirs."""
        self._fresh = not known
        self._told.clear()

    def _sent(self, tasks: Sequence[tuple[Task, int]], timeout: float | None) -> dict[str, tuple[Task, int]]:
        """Send; return what is waited for, by the message."""
        ttl = _DAYS if timeout is None else timeout + _MARGIN
        messages = [
            Message(
                envelope.content({"message": task.to_bytes()}, fresh=self._fresh and node not in self._told),
                node, "train", ttl=ttl, group_id=str(task.round),
            )
            for task, node in tasks
        ]  # fmt: skip
        ids = self._grid.push_messages(messages) if messages else []
        return {sent: pair for sent, pair in zip(ids, tasks, strict=False) if sent is not None}

    def _collected(self, waiting: dict[str, tuple[Task, int]], timeout: float | None) -> dict[str, Reply | Failure]:
        """Wait for answers until all are there, or nothing more can come."""
        answers: dict[str, Reply | Failure] = {}
        began, pause = time.monotonic(), PAUSE[0]
        looked = began
        while True:
            for reply in self._grid.pull_messages(list(waiting)) if waiting else []:
                task, node = waiting.pop(reply.metadata.reply_to_message_id)
                answers[task.client] = self._read(reply, task, node)
            if timeout is not None and time.monotonic() >= began + timeout:
                answers |= _failed(waiting, "hung", f"no answer after {timeout:g} s")
                waiting.clear()
            if time.monotonic() >= looked + _LOOK:
                answers |= self._gone(waiting)
                looked = time.monotonic()
            if not waiting:
                return answers
            time.sleep(pause)
            pause = min(1.5 * pause, PAUSE[1])

    def _gone(self, waiting: dict[str, tuple[Task, int]]) -> dict[str, Reply | Failure]:
        """Stop waiting for nodes that have left."""
        self._nodes.look()
        gone = {sent: pair for sent, pair in waiting.items() if not self._nodes.online(pair[1])}
        for sent in gone:
            del waiting[sent]
        return _failed(gone, "died", "its SuperNode has gone")

    def _read(self, reply: Message, task: Task, node: int) -> Reply | Failure:
        if reply.has_error():
            code, reason = reply.error.code, reply.error.reason or "no reason given"
            return Failure(
                task.client, task.round, _REASONS.get(code, "died"), f"Flower's error {code}: {reason}"[:500]
            )
        try:
            found = message(envelope.needed(reply.content, "message"))
            if not isinstance(found, (Reply, Failure)) or found.client != task.client:
                raise FormatError("it answered with another kind of message, or for another client")
        except FormatError as error:
            return Failure(task.client, task.round, "corrupted", str(error)[:500])
        self._told.add(node)
        return found


def _failed(waiting: Mapping[str, tuple[Task, int]], reason: str, detail: str) -> dict[str, Reply | Failure]:
    return {task.client: Failure(task.client, task.round, reason, detail) for task, _ in waiting.values()}


def _checked(clients: int | Sequence[str]) -> int | Sequence[str]:
    if isinstance(clients, int):
        return whole(clients, "clients", least=1)
    if isinstance(clients, str) or not clients or not all(isinstance(one, str) and one for one in clients):
        raise ConfigError(f"clients are {clients!r:.80}; expected their names, or how many there are")
    if len(set(clients)) != len(clients):
        raise ConfigError("two clients have one name; the name keys a client's draws and its state")
    return list(clients)
