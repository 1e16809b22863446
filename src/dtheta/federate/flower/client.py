"""client_app: a ``dt.Client`` as a Flower ClientApp."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dtheta.errors import ConfigError
from dtheta.federate.client import Client
from dtheta.federate.flower import envelope
from dtheta.federate.flower.memory import Memory
from dtheta.federate.flower.package import ClientApp, Context, Message, RecordDict
from dtheta.federate.frame import Frame
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.party import failure, respond


def client_app(make_client: Callable[[Context], Client]) -> ClientApp:
    """Return a Flower ClientApp that answers a federation's tasks with a client.

    Args:
        make_client: (context) -> the client of this node, as ``context.node_config`` tells it apart from others, such
            as by "partition-id". Called for every task, and once for the name: give ``dt.Client`` its model and data
            as functions where they are large. A client has one name for the whole federation.

    What a client keeps from one round to the next (the global delta that it knows, and what its codec left out) lies
    in ``context.state``, so a process that ends after each task loses nothing; see ``Memory``.
    """
    app = ClientApp()

    @app.query()
    def name(message: Message, context: Context) -> Message:
        return Message(envelope.content({}, name=_made(make_client, context).name), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        answer = _answer(make_client, message.content, context)
        return Message(envelope.content({"message": answer.to_bytes()}), reply_to=message)

    return app


def _answer(make_client: Callable[[Context], Client], asked: RecordDict, context: Context) -> Reply | Failure:
    task = Task.from_bytes(envelope.needed(asked, "message"))
    try:
        client = _made(make_client, context)
        if client.name != task.client:
            raise ConfigError(f"this is client {client.name!r}; the task is for {task.client!r}")
        client = dataclasses.replace(client, model=client.module())
        frame = Frame.of(client.template(client.module()))
        memory = Memory() if envelope.note(asked, "fresh", False) else Memory.read(context.state, frame)
        residual, knowledge = memory.residual(task.round), memory.knowledge()
    except (Exception, SystemExit) as error:  # user code runs in there: anything may come out
        return failure(task, error)
    answer, left = respond(client, task, frame, knowledge, residual)
    memory.then(task, answer, knowledge, left.residual).write(context.state, frame)
    return answer


def _made(make_client: Callable[[Context], Client], context: Context) -> Client:
    client = make_client(context)
    if not isinstance(client, Client):
        raise ConfigError(f"make_client returned {client!r:.80}; expected dt.Client(...)")
    return client
