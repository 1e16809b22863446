"""Adaptive server optimizers: every entry has a rate of its own, by the squares of what came before.

    m <- beta1 m + (1 - beta1) D
    v <- v + D^2                                        FedAdagrad
    v <- v - (1 - beta2) D^2 sign(v - D^2)              FedYogi
    v <- beta2 v + (1 - beta2) D^2                      FedAdam
    G <- G + lr m / (sqrt(v) + tau)                     from m = 0, v = tau^2, without correction of the start

Reddi et al. 2021, arXiv 2003.00295, algorithm 2. The square of a low-rank matrix is of high rank, so the state and the
update are dense.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.federate.frame import Frame
from dtheta.federate.server.optimizer import ServerOptimizer, State


@dataclass(frozen=True)
class Adaptive(ServerOptimizer):
    """What the three share.

    Attributes:
        lr: Rate.
        beta1: Of the mean of the answers, in [0, 1).
        tau: Keeps the division away from zero, above zero: the smaller, the more alike are all entries' steps.
    """

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.lr > 0, "lr", "above zero")
        self.require(0 <= self.beta1 < 1, "beta1", "in [0, 1)")
        self.require(self.tau > 0, "tau", "above zero")

    def step(self, delta: Delta, state: State, frame: Frame) -> tuple[Delta, State]:
        """Return the update, and the means of answers and squares; entries that no one moved rest."""
        update: dict[str, Change] = {}
        first, second = (dict(state[key].changes) if key in state else {} for key in ("first", "second"))
        for name in frame.shapes:
            if name not in delta.changes and name not in first:
                continue
            zeros = torch.zeros(frame.shapes[name], dtype=torch.float64)
            D = delta[name].dense().double() if name in delta else zeros
            m = first[name].dense().double() if name in first else zeros
            v = second[name].dense().double() if name in second else torch.full_like(zeros, self.tau**2)
            m, v = self.beta1 * m + (1 - self.beta1) * D, self.squares(v, D.square())
            first[name], second[name] = frame.change(name, m), frame.change(name, v)
            update[name] = frame.change(name, (self.lr * m / (v.sqrt() + self.tau)).float())
        provenance = delta.provenance
        made = {"first": Delta(first, frame.base, provenance), "second": Delta(second, frame.base, provenance)}
        return Delta(update, frame.base, provenance), made

    @abstractmethod
    def squares(self, v: Tensor, squared: Tensor) -> Tensor:
        """Return the next v from this one and D^2."""


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """Rates that fall with the sum of squares."""

    beta1: float = 0.0

    def squares(self, v: Tensor, squared: Tensor) -> Tensor:
        """Return v + D^2."""
        return v + squared


@dataclass(frozen=True)
class _Forgetting(Adaptive):
    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.beta2 < 1, "beta2", "in [0, 1)")


@dataclass(frozen=True)
class FedAdam(_Forgetting):
    """Rates by a mean of squares that forgets.

    Attributes:
        beta2: Of the mean of squares, in [0, 1).
    """

    def squares(self, v: Tensor, squared: Tensor) -> Tensor:
        """Return beta2 v + (1 - beta2) D^2."""
        return self.beta2 * v + (1 - self.beta2) * squared


@dataclass(frozen=True)
class FedYogi(_Forgetting):
    """Rates whose squares change by no more than the new square.

    Attributes:
        beta2: Of the squares, in [0, 1).
    """

    def squares(self, v: Tensor, squared: Tensor) -> Tensor:
        """Return v - (1 - beta2) D^2 sign(v - D^2)."""
        return v - (1 - self.beta2) * squared * torch.sign(v - squared)
