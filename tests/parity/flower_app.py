"""A Flower app of dtheta's, as a user writes one: a tiny model, clients with rows of their own, and a federation."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dtheta as dt
from dtheta.federate.client import Client, Update
from dtheta.federate.federate import federate as run_rounds
from dtheta.federate.flower import client_app, server_app
from dtheta.federate.server.server import Server

CLIENTS = 8


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=draws) / 4)
    return made


def squared(net: Any, batch: Any) -> Tensor:
    return (net(batch[0]) - batch[1]).square().mean()


def rows(i: int) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(i)
    return [(torch.randn(20 + i, 12, generator=draws), torch.randn(20 + i, 8, generator=draws))]


class Halts(Client):
    """In round 2 it writes a file, and takes far longer than anyone waits."""

    def train(self, global_delta: Any, round: int, seed: int) -> Update:
        if round == 2:
            Path(os.environ["DTHETA_HALTS"]).write_text("here")
            time.sleep(600)
        return super().train(global_delta, round, seed)


def client(i: int, kind: type[Client] = Client) -> Client:
    return kind(f"c{i}", model, rows(i), dt.LoRA(rank=2), steps=2, lr=0.05, loss=squared)


def federate(**settings: Any) -> Any:
    given = {"rounds": 3, "codec": "ternary", "seed": 3, "evaluate": lambda net: squared(net, rows(99)[0]).item()}
    return run_rounds(Server(model(), dt.LoRA(rank=2)), **(given | settings))


def run(engine: Any, context: Any) -> None:
    config = context.run_config
    given = {"rounds": int(config["rounds"]), "codec": str(config["codec"])}
    found = federate(engine=engine, timeout=float(config["timeout"]) or None, **given)
    Path(str(config["out"])).write_text(found.to_json())


def make(context: Any) -> Client:
    i = int(context.node_config["partition-id"])
    return client(i, Halts if context.node_config.get("halts") else Client)


server_side = server_app(run, int(os.environ.get("DTHETA_CLIENTS", CLIENTS)), wait=120.0)
client_side = client_app(make)
