"""Krum: the answer that has the nearest neighbors.

    score_k = sum of ||D_k - D_j||^2 over the K - bad - 2 nearest j
    ||D_k - D_j||^2 = <D_k, D_k> + <D_j, D_j> - 2 <D_k, D_j>          exact for factors, which stay factors

Blanchard et al. 2017, arXiv 1703.02757. With ``keep`` above 1 it is Multi-Krum: the plain mean of the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.delta import Delta
from dtheta.federate.frame import Frame
from dtheta.federate.server.aggregate import Aggregate
from dtheta.federate.total import weighted


@dataclass(frozen=True)
class Krum(Aggregate):
    """The answers nearest to their neighbors.

    Attributes:
        bad: How many clients may be liars; 2 bad + 3 answers are needed.
        keep: How many answers are averaged.
    """

    bad: int
    keep: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.bad >= 0, "bad", "zero or more")
        self.require(self.keep >= 1, "keep", "one or more")

    @property
    def least(self) -> int:
        """2 bad + 3, and enough to keep."""
        return max(2 * self.bad + 3, self.keep)

    def join(self, deltas: Sequence[Delta], examples: Sequence[int], frame: Frame) -> Delta:
        """Return the mean of the best; of equal scores the earlier client is better."""
        scores = self.scores(deltas).tolist()
        best = sorted(range(len(deltas)), key=lambda k: (scores[k], k))[: self.keep]
        return weighted([deltas[k] for k in sorted(best)], [1 / len(best)] * len(best), frame)

    def scores(self, deltas: Sequence[Delta]) -> Tensor:
        """Return the score of every answer (K,), float64."""
        count = len(deltas)
        G = torch.zeros(count, count, dtype=torch.float64)
        for i in range(count):
            for j in range(i + 1):
                G[i, j] = G[j, i] = deltas[i].inner(deltas[j])
        squares = G.diagonal()[:, None] + G.diagonal()[None, :] - 2 * G
        squares.fill_diagonal_(float("inf"))
        return squares.sort(1).values[:, : max(1, count - self.bad - 2)].sum(1)
