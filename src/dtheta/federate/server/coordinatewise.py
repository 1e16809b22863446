"""Robust aggregates entry by entry: a minority of liars moves no entry beyond what honest clients say.

    TrimmedMean   of every entry, the mean without the b smallest and the b largest, b = floor(share K)
    Median        of every entry, the median; of an even number, the mean of the two in the middle

Yin et al. 2018, arXiv 1803.01498. Entries do not come in factors, so the answers are made dense, a slab of entries at
a time. A parameter that a client leaves out counts as zero.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.federate.frame import Frame
from dtheta.federate.server.aggregate import Aggregate

_SLAB = 1 << 20  # entries of all clients together that are sorted at once
_ROUNDING = 1e-9  # of a share times a number of clients


class Coordinatewise(Aggregate):
    """An aggregate of every entry by itself."""

    def join(self, deltas: Sequence[Delta], examples: Sequence[int], frame: Frame) -> Delta:
        """Return the aggregate of every entry."""
        changes: dict[str, Change] = {}
        for name in frame.shapes:
            held = [delta.changes[name].dense().reshape(-1) for delta in deltas if name in delta.changes]
            if held:
                changes[name] = frame.change(name, self._joined(held, len(deltas)))
        return Delta(changes, frame.base, deltas[0].provenance)

    def _joined(self, held: Sequence[Tensor], clients: int) -> Tensor:
        result = torch.empty(held[0].numel(), dtype=max((v.dtype for v in held), key=lambda d: d.itemsize))
        width = max(1, _SLAB // clients)
        for start in range(0, result.numel(), width):
            rows = [values[start : start + width].double() for values in held]
            rows += [torch.zeros_like(rows[0])] * (clients - len(held))
            result[start : start + width] = self.middle(torch.stack(rows).sort(0).values)
        return result

    @abstractmethod
    def middle(self, sorted_KE: Tensor) -> Tensor:
        """Return one number an entry (E,) from the K clients' in ascending order."""


@dataclass(frozen=True)
class TrimmedMean(Coordinatewise):
    """The mean without the extremes of every entry.

    It needs 1 / share answers, of which it cuts off one at either end: with fewer it would be the plain mean.

    Attributes:
        share: Of the clients, cut off at either end, in [0, 0.5); 0 is the plain mean.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.share < 0.5, "share", "in [0, 0.5)")

    @property
    def least(self) -> int:
        """1 / share, rounded up."""
        return math.ceil(1 / self.share - _ROUNDING) if self.share else 1

    def middle(self, sorted_KE: Tensor) -> Tensor:
        """Return the mean of what is left."""
        count = len(sorted_KE)
        cut = math.floor(self.share * count + _ROUNDING)  # 0.29 of 100 are 29, and the product is 28.999...
        return sorted_KE[cut : count - cut].mean(0)


@dataclass(frozen=True)
class Median(Coordinatewise):
    """The median of every entry."""

    def middle(self, sorted_KE: Tensor) -> Tensor:
        """Return the middle."""
        count = len(sorted_KE)
        return sorted_KE[(count - 1) // 2 : count // 2 + 1].mean(0)
