"""Server optimizers: what becomes of the joint answer D of a round.

    FedAvg    G <- G + lr D                                         McMahan et al. 2017, arXiv 1602.05629
    FedAvgM   m <- beta m + D,  G <- G + lr m                       Hsu, Qi and Brown 2019, arXiv 1909.06335

D stands where a gradient with its sign turned would. Both are linear, so factors stay factors; the adaptive ones, which
take roots, are in adaptive.py. An optimizer keeps nothing: its state goes in and comes out, as deltas by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dtheta.core.delta import Delta
from dtheta.federate.frame import Frame
from dtheta.federate.server.settings import Settings
from dtheta.federate.total import weighted

State: TypeAlias = Mapping[str, Delta]


class ServerOptimizer(Settings, ABC):
    """How the joint answer of a round becomes an update of the global delta."""

    @abstractmethod
    def step(self, delta: Delta, state: State, frame: Frame) -> tuple[Delta, State]:
        """Return the update and the next state; the first state is empty."""


@dataclass(frozen=True)
class FedAvg(ServerOptimizer):
    """The joint answer times a rate.

    Attributes:
        lr: 1 takes the mean of what the clients have.
    """

    lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.lr > 0, "lr", "above zero")

    def step(self, delta: Delta, state: State, frame: Frame) -> tuple[Delta, State]:
        """Return lr D."""
        return weighted([delta], [self.lr], frame), {}


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """The joint answer with momentum.

    Attributes:
        lr: Rate.
        momentum: beta, in [0, 1).
    """

    lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.lr > 0, "lr", "above zero")
        self.require(0 <= self.momentum < 1, "momentum", "in [0, 1)")

    def step(self, delta: Delta, state: State, frame: Frame) -> tuple[Delta, State]:
        """Return lr m."""
        before = [state["momentum"]] if "momentum" in state else []
        m = weighted([*before, delta], [*[self.momentum] * len(before), 1.0], frame)
        return weighted([m], [self.lr], frame), {"momentum": m}
