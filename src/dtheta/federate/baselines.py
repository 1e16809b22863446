"""Baselines of a federation: what the data would give at one place, and what each party reaches alone.

    centralized   one party with all the data                          what keeping data apart costs
    alone         each party by itself, without the others             what federating gains it

Both train from where the federation begins, with a client's settings, for as many steps as a client takes in all its
rounds: the optimizer is not started anew each round, as it is in a federation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtheta.core.arguments import whole
from dtheta.core.delta import Delta
from dtheta.core.seeds import key
from dtheta.errors import ConfigError, DthetaError
from dtheta.federate.client import Client, measured
from dtheta.federate.frame import Frame
from dtheta.federate.server.server import Server
from dtheta.federate.total import moved


@dataclass(frozen=True, eq=False)
class Baseline:
    """What training without a federation gave.

    Attributes:
        name: "centralized", or that of the party.
        examples: How many it trained on.
        steps: Optimizer steps.
        scores: What ``evaluate`` said of it.
        delta: Relative to the base.
    """

    name: str
    examples: int
    steps: int
    scores: Mapping[str, float]
    delta: Delta

    def to_dict(self) -> dict[str, Any]:
        """Return all but the delta as plain values."""
        return {"name": self.name, "examples": self.examples, "steps": self.steps, "scores": dict(self.scores)}


def centralized(
    server: Server, client: Client, data: Any, *, rounds: int, evaluate: Callable[[Any], Any], seed: int = 0
) -> Baseline:
    """Return what one party with all the data reaches.

    Args:
        server: The federation's.
        client: One of its clients, for the settings.
        data: All data, as a client's.
        rounds: Of the federation.
        evaluate: As in ``dt.federate``.
        seed: Of every draw.

    Raises:
        DthetaError: As ``Client.train`` and ``evaluate``.
    """
    one = dataclasses.replace(client.remade(Client), name="centralized", data=data, examples=None)
    return _trained(server, one, rounds, evaluate, seed)


def alone(
    server: Server, clients: Sequence[Client], *, rounds: int, evaluate: Callable[[Any], Any], seed: int = 0
) -> list[Baseline]:
    """Return what each party reaches by itself; arguments are as for ``centralized``.

    Raises:
        DthetaError: As ``Client.train`` and ``evaluate``.
    """
    if not clients:
        raise ConfigError("there are no clients")
    return [_trained(server, one.remade(Client), rounds, evaluate, seed) for one in clients]


def _trained(server: Server, client: Client, rounds: int, evaluate: Callable[[Any], Any], seed: int) -> Baseline:
    steps = client.steps * whole(rounds, "rounds", least=1)
    template = server.template(seed)
    frame = Frame.of(template)
    start = server.beginning(template, frame)
    try:
        update = dataclasses.replace(client, steps=steps).train(start, 1, seed)
    except DthetaError as error:
        raise type(error)(f"{client.name} alone: {error}") from error
    delta = server.labeled(moved(start, update.delta, frame), template)
    drawn = key(seed, "federate/evaluate", rounds)  # as the last round of the federation draws
    with server.with_delta(delta) as called:
        scores = measured(evaluate, called, server.model, drawn, "evaluate")
    return Baseline(client.name, update.examples, steps, scores, delta)
