"""Tiny models, data and clients for the tests of federations."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.full import Full
from dtheta.core.delta import Delta
from dtheta.federate.client import Client, Update
from dtheta.federate.server.server import Server


def model(seed: int = 0) -> nn.Module:
    """12 -> 16 -> 8, drawn by seed."""
    made = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=draws) / 4)
    return made


def squared(net: Any, batch: Any) -> Tensor:
    """Mean squared error."""
    return (net(batch[0]) - batch[1]).square().mean()


def batch(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """x (rows, 12) and y (rows, 8)."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 12, generator=draws), torch.randn(rows, 8, generator=draws)


def clients(
    net: nn.Module, count: int = 4, *, kind: type[Client] = Client, method: Any = None, **settings: Any
) -> list:
    """Clients with 20, 21, ... rows, which share a model."""
    given = {"steps": 2, "lr": 0.05, "loss": squared} | settings
    return [kind(f"c{i}", net, [batch(20 + i, i)], method or Full(), **given) for i in range(count)]


def loss_of(parties: list[Client]) -> Any:
    """An evaluation: the mean loss over all clients' rows."""

    def evaluate(net: Any) -> float:
        with torch.no_grad():
            found = [(float(squared(net, c.data[0])), len(c.data[0][0])) for c in parties]
        return sum(loss * n for loss, n in found) / sum(n for _, n in found)

    return evaluate


def server(net: nn.Module, method: Any = None, **settings: Any) -> Server:
    """A server of the same model."""
    return Server(net, method or Full(), **settings)


def bits(delta: Delta) -> dict[str, bytes]:
    """The bytes of every change, dense."""
    return {name: delta[name].dense().numpy().tobytes() for name in delta}


class Dies(Client):
    """Raises."""

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        raise RuntimeError("out of luck")


class Vanishes(Client):
    """Ends its process without a word."""

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        os._exit(7)


class Leaves(Client):
    """Calls exit."""

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        raise SystemExit(1)


class Sleeps(Client):
    """Takes far longer than anyone waits."""

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        time.sleep(600)
        raise AssertionError("nobody waits that long")


class Lies(Client):
    """Answers with its delta changed by ``turned``."""

    turned: Any = staticmethod(lambda delta: delta)

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        found = super().train(global_delta, round, seed)
        return Update(type(self).turned(found.delta), found.examples, found.metrics)


class Flips(Lies):
    """Answers with the opposite."""

    turned = staticmethod(lambda delta: -1.0 * delta)


class Scales(Lies):
    """Answers with fifty times the opposite."""

    turned = staticmethod(lambda delta: -50.0 * delta)
