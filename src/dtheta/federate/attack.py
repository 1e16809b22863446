"""Attacks: clients of a simulation that lie, to see what an aggregate is worth.

    SignFlip    D -> -scale D        away from what was learned
    Scaling     D -> factor D        the own data outweigh all others: the step of model replacement
    Noise       D -> D + norm z      z of unit length, drawn by key

Scaling is that of Bagdasaryan et al. 2018 (arXiv 1807.00459). A liar has a client's right to answer and nothing more:
its answer is of the right shape and finite, so only what joins the answers can tell.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dtheta.core.delta import Delta
from dtheta.core.seeds import generator, normal
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError
from dtheta.federate.client import Client, Update
from dtheta.federate.frame import Frame
from dtheta.federate.server.settings import Settings
from dtheta.federate.total import weighted


@dataclass(frozen=True)
class Attack(Settings):
    """What liars do with the delta that they have trained.

    Attributes:
        clients: How many of the clients lie.
    """

    clients: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.clients >= 1, "clients", "one or more")

    @abstractmethod
    def twisted(self, delta: Delta, seed: int, key: str) -> Delta:
        """Return what a liar answers in place of its delta."""


@dataclass(frozen=True)
class SignFlip(Attack):
    """The negative.

    Attributes:
        scale: How many times as long.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.scale > 0, "scale", "above zero")

    def twisted(self, delta: Delta, seed: int, key: str) -> Delta:
        """Return -scale D."""
        return weighted([delta], [-self.scale], Frame.of(delta))


@dataclass(frozen=True)
class Scaling(Attack):
    """A multiple.

    Attributes:
        factor: How many times; the number of clients replaces the mean by the liar's own.
    """

    factor: float = 10.0

    def twisted(self, delta: Delta, seed: int, key: str) -> Delta:
        """Return factor D."""
        return weighted([delta], [self.factor], Frame.of(delta))


@dataclass(frozen=True)
class Noise(Attack):
    """Noise of a length on top.

    Attributes:
        norm: Its length over that of the delta.
    """

    norm: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.norm > 0, "norm", "above zero")

    def twisted(self, delta: Delta, seed: int, key: str) -> Delta:
        """Return D + norm |D| z."""
        frame = Frame.of(delta)
        drawn = normal((frame.numel,), 1.0, generator(seed, f"{key}/noise"))
        drawn *= self.norm * delta.norm() / float(drawn.norm())
        changes = {name: frame.change(name, drawn[a:b]) for name, (a, b) in frame.spans.items()}
        return weighted([delta, Delta(changes, frame.base, delta.provenance)], [1.0, 1.0], frame)


@dataclass(frozen=True, eq=False)
class Malicious(Client):
    """A client that lies.

    Attributes:
        attack: What it does.
    """

    attack: Attack = dataclasses.field(kw_only=True)

    def train(self, global_delta: Delta, round: int, seed: int) -> Update:
        """Train, and lie about it."""
        told = super().train(global_delta, round, seed)
        return dataclasses.replace(
            told, delta=self.attack.twisted(told.delta, seed, f"federate/{round}/{self.name}/attack")
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration, with the attack."""
        return super().to_dict() | {"attack": self.attack.to_dict()}


def attacked(clients: Sequence[Client], attack: Attack, seed: int) -> list[Client]:
    """Return the clients, some of which lie; the seed decides who.

    Raises:
        ConfigError: If there are not so many, or none would be honest.
    """
    if attack.clients >= len(clients):
        raise ConfigError(f"{attack.clients} clients shall lie, of {len(clients)}; leave an honest one at least")
    liars = set(keyed_order(len(clients), seed, "federate/attack")[: attack.clients])
    return [one.remade(Malicious, attack=attack) if i in liars else one for i, one in enumerate(clients)]
