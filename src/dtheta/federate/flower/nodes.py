"""Nodes: which client is at which of Flower's nodes.

A node tells its client's name when it is first seen. A SuperNode that is started again is another node to Flower; it
takes over the name as soon as the first one is gone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dtheta.errors import ConfigError, FormatError
from dtheta.federate.flower import envelope
from dtheta.federate.flower.package import Grid, Message

_LASTING = (1, 2, 7)  # flwr.common.constant.ErrorCode: the app does not load, it raised, or it is not trusted
PAUSE = (0.02, 1.0)  # seconds between two looks, at first and at most


class Nodes:
    """The nodes that are connected, and their clients' names."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._online: set[int] = set()
        self._names: dict[int, str] = {}
        self._asked: dict[str, int] = {}
        self._refused: dict[int, str] = {}

    def look(self) -> None:
        """Note who is there, and ask new nodes for their client's name."""
        self._online = set(self._grid.get_node_ids())
        self._names = {node: name for node, name in self._names.items() if node in self._online}
        self._refused = {node: why for node, why in self._refused.items() if node in self._online}
        seen = {*self._names, *self._refused, *self._asked.values()}
        new = sorted(self._online - seen)
        queries = [Message(envelope.content({}), node, "query") for node in new]
        for node, query in zip(new, self._grid.push_messages(queries) if queries else [], strict=True):
            if query is not None:
                self._asked[query] = node
        self.hear()

    def hear(self) -> None:
        """Note the names that have come."""
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else []:
            node = self._asked.pop(reply.metadata.reply_to_message_id)
            if reply.has_error() and reply.error.code not in _LASTING:
                continue  # a process that did not start in time, on a machine that is busy: it is asked again
            try:
                self._names[node] = _name(reply)
            except FormatError as error:
                self._refused[node] = str(error)

    def of(self, name: str) -> int | None:
        """Return the node of a client; None while it has none."""
        return next((node for node, found in self._names.items() if found == name), None)

    def online(self, node: int) -> bool:
        """Tell whether a node was there at the last look."""
        return node in self._online

    def gathered(self, wanted: int | Sequence[str], wait: float) -> list[str]:
        """Wait until the clients are there, and return their names in order.

        Raises:
            ConfigError: If they are not there in time, cannot be made, or two have one name.
        """
        deadline, pause = time.monotonic() + wait, PAUSE[0]
        while True:
            self.look()
            missing = self._missing(wanted)
            if not missing:
                return sorted(self._names.values()) if isinstance(wanted, int) else list(wanted)
            if time.monotonic() > deadline or (self._refused and not self._asked):
                raise ConfigError(f"{missing}{self._why()}")
            time.sleep(pause)
            pause = min(1.5 * pause, PAUSE[1])

    def _missing(self, wanted: int | Sequence[str]) -> str:
        names = list(self._names.values())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"two nodes are client {twice[0]!r}; give every SuperNode its own --node-config, such as partition-id=0"
            )
        if isinstance(wanted, int):
            return "" if len(names) == wanted else f"{len(names)} of {wanted} clients are there"
        absent = [name for name in wanted if name not in names]
        return f"these clients are not there: {', '.join(absent[:10])}" if absent else ""

    def _why(self) -> str:
        if self._refused:
            return f"; a node says: {next(iter(self._refused.values()))}"
        return f" ({len(self._online)} nodes are connected); start their SuperNodes, or raise wait"


def _name(reply: Message) -> str:
    """Return the name that a node told.

    Raises:
        FormatError: If it told none.
    """
    if reply.has_error():
        raise FormatError(reply.error.reason or f"error {reply.error.code}")
    found = envelope.note(reply.content, "name", "")
    if not found:
        raise FormatError("it runs another app than dtheta's client_app")
    return found
