"""LocalGrid: a Flower grid in this process, for tests and for a first try; no SuperLink, and nothing listens.

A message runs its client at once, one after the other, so a client that hangs, hangs the grid. Message content is not
copied. Flower keeps the identity of what runs in a process in a private class; it is set for the moment of a call only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.federate.flower.package import ClientApp, Context, Error, Grid, Message, RecordDict, ServerApp

_SERVER, _RUN, _RAISED = 1, 1, 2  # SUPERLINK_NODE_ID; a run; ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class LocalGrid(Grid):
    """Nodes that run one ClientApp in this process.

    Args:
        app: The clients'.
        count: How many nodes; each has "partition-id" and "num-partitions" in its configuration.
        run_config: What ``flwr run --run-config`` would say.

    Attributes:
        contexts: The nodes' contexts; their states last as long as the grid.
    """

    def __init__(self, app: ClientApp, count: int, run_config: Mapping[str, Any] | None = None) -> None:
        self._app = app
        self._replies: dict[str, Message] = {}
        self._run_config = dict(run_config or {})
        count = whole(count, "count", least=1)
        self.contexts = {
            2 + i: self._context(2 + i, {"partition-id": i, "num-partitions": count}) for i in range(count)
        }

    def _context(self, node: int, config: Mapping[str, Any]) -> Context:
        return Context(_RUN, node, dict(config), RecordDict(), dict(self._run_config))

    def run_app(self, app: ServerApp) -> None:
        """Run a ServerApp on this grid."""
        with _identity(_SERVER):
            app(self, self._context(_SERVER, {}))

    def set_run(self, run: Any) -> None:
        """Do nothing: a local grid has one run."""

    @property
    def run(self) -> Any:
        """There is no run to look at.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a local grid has no run; start a SuperLink for one")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message; Flower has deprecated this in favor of ``Message``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the clients, and keep their replies."""
        ids = []
        for message in messages:
            ids.append(uuid4().hex)
            message.metadata.__dict__["_message_id"] = ids[-1]  # as Flower's own grids do
            self._replies[ids[-1]] = self._reply(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies; each once."""
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the clients and return their replies."""
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        with _identity(node):
            try:
                return self._app(message, self.contexts[node])
            except Exception as error:
                return Message(Error(_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


@contextlib.contextmanager
def _identity(node: int) -> Iterator[None]:
    """Set who runs in this process, as Flower's own programs do.

    Raises:
        ConfigError: If this Flower keeps it elsewhere.
    """
    try:
        from flwr.supercore.task_identity import TaskIdentity  # pyright: ignore[reportMissingImports]

        before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    except (ImportError, AttributeError) as error:
        raise ConfigError("LocalGrid is made for flwr 1.42; this one keeps identities elsewhere") from error
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN, node
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
