"""Aggregates: the answers of a round as one delta.

    Mean       sum_k (n_k / N) D_k                         exact: the mean of matrices, never of their factors
    NormClip   each D_k at most as long as a limit, then another aggregate

n_k are the examples that client k claims. Robust aggregates do not weigh by them, since a claim costs nothing:
coordinatewise.py and krum.py.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from dtheta.core.delta import Delta
from dtheta.federate.frame import Frame
from dtheta.federate.server.settings import Settings
from dtheta.federate.total import weighted


class Aggregate(Settings, ABC):
    """How the answers of a round are joined."""

    @property
    def least(self) -> int:
        """The fewest answers that it can join; a round with fewer is skipped."""
        return 1

    @abstractmethod
    def join(self, deltas: Sequence[Delta], examples: Sequence[int], frame: Frame) -> Delta:
        """Return one delta, given at least ``least`` of them and how many examples stand behind each."""


@dataclass(frozen=True)
class Mean(Aggregate):
    """The mean, weighted by examples.

    Attributes:
        weighted: False weighs all clients alike.
    """

    weighted: bool = True

    def join(self, deltas: Sequence[Delta], examples: Sequence[int], frame: Frame) -> Delta:
        """Return the mean."""
        counts = examples if self.weighted else [1] * len(deltas)
        return weighted(deltas, [count / sum(counts) for count in counts], frame)


@dataclass(frozen=True)
class NormClip(Aggregate):
    """Answers shortened to a limit, then joined: no client moves the global delta further than that.

    Sun et al. 2019, arXiv 1911.07963.

    Attributes:
        limit: Largest norm; None for the median of the round's norms.
        inner: What joins them then.
    """

    limit: float | None = None
    inner: Aggregate = field(default_factory=Mean)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.limit is None or self.limit > 0, "limit", "above zero, or None")

    @property
    def least(self) -> int:
        """That of the inner one."""
        return self.inner.least

    def join(self, deltas: Sequence[Delta], examples: Sequence[int], frame: Frame) -> Delta:
        """Return the joined answers."""
        norms = [delta.norm() for delta in deltas]
        limit = statistics.median(norms) if self.limit is None else self.limit
        held = [shortened(delta, norm, limit, frame) for delta, norm in zip(deltas, norms, strict=True)]
        return self.inner.join(held, examples, frame)


def shortened(delta: Delta, norm: float, limit: float, frame: Frame) -> Delta:
    """Return a delta of a norm, scaled down to a limit where it is longer."""
    return delta if norm <= limit or math.isclose(norm, 0.0) else weighted([delta], [limit / norm], frame)
