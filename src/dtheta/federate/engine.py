"""Engine: what brings tasks to clients and answers back.

    InProcess   one client after the other in this process; a client that hangs, hangs the federation
    Processes   a process for every task, ended at the deadline; several at a time       (processes.py)

An engine is trusted with nothing but delivery: the server checks every answer.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, DthetaError
from dtheta.federate.client import Client, check_name
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task, message
from dtheta.federate.party import Knowledge, Left, failure, respond
from dtheta.federate.secure.client import SecureClient
from dtheta.federate.secure.session import Phase, Session

#: Clients, or by name functions that make one when it is asked, so that thousands need no memory.
Clients: TypeAlias = Sequence[Client] | Mapping[str, Callable[[], Client]]


class Engine(Protocol):
    """Delivery of tasks and answers."""

    @property
    def names(self) -> Sequence[str]:
        """The clients' names, in order."""
        ...

    def run(self, tasks: Sequence[Task], timeout: float | None = None) -> Sequence[Reply | Failure]:
        """Return what the clients answered; of whom nothing came, nothing is in it.

        Args:
            tasks: One a client.
            timeout: Seconds that each client has; None for as long as it takes.
        """
        ...

    def secure(self, session: Session, phase: Phase, messages: Mapping[str, bytes]) -> Mapping[str, bytes | Failure]:
        """Return what clients answer to the server's messages of a phase of a secure sum of their last answers."""
        ...

    def residuals(self) -> Mapping[str, Delta]:
        """Return what the codecs of clients here left out, by client; empty where clients keep it elsewhere."""
        ...

    def restore(self, residuals: Mapping[str, Delta], known: Sequence[tuple[int, Delta]]) -> None:
        """Take up residuals and the global deltas that clients know."""
        ...


class InProcess:
    """Clients in this process, one at a time; they may share one model.

    Clients that are made when they are asked take no memory in between, but for what a lossy codec left out of their
    last answer: eight bytes an entry for each client that has answered.

    Args:
        clients: Clients, or functions that make them by name.

    Raises:
        ConfigError: If there is none, or two have one name.
    """

    def __init__(self, clients: Clients) -> None:
        if isinstance(clients, Mapping):
            self._makers = _checked_makers(clients)
        else:
            self._makers = {one.name: _Held(one) for one in _checked(clients)}
            if len(self._makers) != len(clients):
                raise ConfigError("two clients have one name; the name keys a client's draws and its state")
        if not self._makers:
            raise ConfigError("a federation needs at least one client")
        self._knowledge = Knowledge()
        self._residuals: dict[str, Delta] = {}
        self._vectors: dict[str, Tensor] = {}
        self._sums: dict[str, SecureClient] = {}
        self._frames: weakref.WeakKeyDictionary[nn.Module, dict[Any, Frame]] = weakref.WeakKeyDictionary()

    @property
    def names(self) -> Sequence[str]:
        """The clients' names."""
        return list(self._makers)

    def run(self, tasks: Sequence[Task], timeout: float | None = None) -> Sequence[Reply | Failure]:
        """Run one client after the other.

        Raises:
            ConfigError: For a timeout, which nothing in this process could keep.
        """
        if timeout is not None:
            raise ConfigError("nothing in one process can end a client that hangs; timeout=... takes dt.Processes")
        return [self._answer(task) for task in tasks]

    def secure(self, session: Session, phase: Phase, messages: Mapping[str, bytes]) -> Mapping[str, bytes | Failure]:
        """Let each client answer by itself; its keys and its vector stay with it."""
        if phase is Phase.KEYS:
            self._sums = {name: SecureClient(session, name) for name in messages}
        found: dict[str, bytes | Failure] = {}
        for name, text in messages.items():
            try:
                found[name] = self._sums[name].respond(phase, text, self._vectors[name])
            except (DthetaError, KeyError) as error:
                found[name] = Failure(name, session.round, "left", f"{type(error).__name__}: {error}"[:500])
        return found

    def config(self) -> dict[str, Any]:
        """Return the settings of clients that are there already."""
        return {name: make().to_dict() for name, make in self._makers.items() if isinstance(make, _Held)}

    def residuals(self) -> Mapping[str, Delta]:
        """Return what the codecs left out."""
        return dict(self._residuals)

    def restore(self, residuals: Mapping[str, Delta], known: Sequence[tuple[int, Delta]]) -> None:
        """Take up residuals and known global deltas."""
        self._residuals = dict(residuals)
        self._knowledge = Knowledge()
        for version, delta in known:
            self._knowledge.learn(version, delta)

    def _answer(self, task: Task) -> Reply | Failure:
        task = Task.from_bytes(task.to_bytes())  # as over a wire
        answer, _, left = self._answered(task)
        self._keep(task.client, left)
        return answer  # type: ignore[return-value]  # a client answers no task

    def _answered(self, task: Task) -> tuple[Task | Reply | Failure, bytes, Left]:
        """Return a client's answer as it arrives, as bytes, and what stays with it; what is no message is a failure."""
        answer, left = self._respond(task)
        try:
            data = answer.to_bytes()
            return message(data), data, left
        except (DthetaError, TypeError, ValueError, OverflowError) as error:  # such as a metric that is no number
            data = failure(task, error).to_bytes()
            return message(data), data, Left(self._residuals.get(task.client))

    def _respond(self, task: Task) -> tuple[Reply | Failure, Left]:
        residual = self._residuals.get(task.client)
        try:
            client = self._client(task.client)
            frame = self._frame(client)
        except (Exception, SystemExit) as error:  # made by the user's code
            return failure(task, error), Left(residual)
        return respond(client, task, frame, self._knowledge, residual)

    def _keep(self, client: str, left: Left) -> None:
        for held, value in ((self._residuals, left.residual), (self._vectors, left.vector)):
            held.pop(client, None)
            if value is not None:
                held[client] = value  # type: ignore[assignment]  # each table has its own kind

    def _client(self, name: str) -> Client:
        """Return a client with its model made."""
        client = self._makers[name]()
        if client.name != name:
            raise ConfigError(f"what was to make the client {name!r} made {client.name!r}; the name keys its draws")
        return dataclasses.replace(client, model=client.module())

    def _frame(self, client: Client) -> Frame:
        """Return what may travel, by a client's own model; taken once a model, since it reads all of it."""
        model = client.module()
        held = self._frames.setdefault(model, {})
        form = (client.method, client.select, client.also)
        if form not in held:
            held[form] = Frame.of(client.template(model))
        return held[form]


class _Held:
    """A client that is there already, as a function that makes one."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self) -> Client:
        return self._client


def _checked(clients: Sequence[Any]) -> Sequence[Client]:
    if isinstance(clients, (str, bytes, Client)) or not isinstance(clients, Sequence):
        raise ConfigError(f"clients are {clients!r:.80}; expected a list of dt.Client, or functions by name")
    for one in clients:
        if not isinstance(one, Client):
            raise ConfigError(f"a client is {one!r:.80}; expected dt.Client(...)")
    return clients


def _checked_makers(clients: Mapping[Any, Any]) -> dict[str, Callable[[], Client]]:
    for name, make in clients.items():
        check_name(name)
        if isinstance(make, Client) or not callable(make):
            raise ConfigError(f"{name!r}: {make!r:.80} is no function that makes a client; or give a list of clients")
    return dict(clients)
