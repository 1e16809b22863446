"""Members of one start and lead, taken in parts: sums that add up, whatever the order and whoever has them.

    sums = verification.gather(start, lead, truth)
    for x_mC in batches:  sums.add(x_mC)           (m, C, *cells)
    verification.accept(sums.merge(other_worker))

Nothing grows with the number of members. For metrics that are sums over members: all but CRPS and the energy score.

Shape legend: m members of a part, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.score.ensemble.entries import place
from dtheta.score.ensemble.references import ONLY
from dtheta.score.ensemble.scoring import Scene
from dtheta.score.ensemble.source import ALL, source_of
from dtheta.score.ensemble.statistic import AdditiveStatistic, EnsembleStatistic

Sums = dict[tuple[AdditiveStatistic, int], tuple[Tensor, ...]]


class MemberSums:
    """Sums over the members seen so far.

    Attributes:
        scene: What they are held against.
        members: How many were added.
    """

    def __init__(
        self,
        scene: Scene,
        statistics: Mapping[AdditiveStatistic, tuple[int, ...]],
        channels: tuple[str, ...] | None,
        members: int = 0,
        sums: Sums | None = None,
    ) -> None:
        """Keep a scene, and which statistics are of which channels; `Verification.gather` calls this."""
        self.scene, self.members = scene, members
        self._statistics, self._channels, self._sums = statistics, channels, sums or {}

    def add(self, forecast: Any) -> None:
        """Add members (m, C, *cells), each of them once. Nothing is added where an error is raised.

        Raises:
            ShapeMismatch: If they have other fields.
            NonFinite: If a value is NaN or infinite; members are numbered as they came.
        """
        scene = self.scene
        source = source_of(forecast, scene.shape, self._channels, place(scene.start, scene.lead))
        added: Sums = {}
        for channel in range(len(self._channels or (ONLY,))):
            found = source.read(channel, slice(0, scene.cells.shape[0]), ALL)
            found = scene.checked(found, channel, *scene.rows, self.members)
            case = scene.case(channel, *scene.rows, found.device)
            for statistic, having in self._statistics.items():
                if channel in having:
                    added[statistic, channel] = tuple(part.cpu() for part in statistic.sums(found, case))
        self._sums = _added(self._sums, added)
        self.members += source.members

    def merge(self, other: MemberSums) -> MemberSums:
        """Return the sums over the members of both, which must be of the same start and lead.

        Raises:
            ConfigError: If they are not.
        """
        here, there = ((s.scene.start, s.scene.lead) for s in (self, other))
        if here != there or set(self._statistics) != set(other._statistics):
            raise ConfigError(f"members of {place(*here)} and of {place(*there)} are not of one forecast")
        if not torch.equal(self.scene.truth, other.scene.truth):
            raise ConfigError(f"{place(*here)}: the two parts were held against different truths")
        members, sums = self.members + other.members, _added(self._sums, other._sums)
        return MemberSums(self.scene, self._statistics, self._channels, members, sums)

    def totals(self) -> dict[EnsembleStatistic, Tensor]:
        """Return the totals (C', R, *components) of all members, by statistic.

        Raises:
            ConfigError: If there are none.
        """
        if not self.members:
            raise ConfigError(f"{place(self.scene.start, self.scene.lead)}: no members were added")
        return {s: torch.stack([self._total(s, c) for c in having]) for s, having in self._statistics.items()}

    def _total(self, statistic: AdditiveStatistic, channel: int) -> Tensor:
        scene = self.scene
        case = scene.case(channel, *scene.rows, torch.device("cpu"))
        return statistic.of_sums(self._sums[statistic, channel], self.members, case)


def _added(a: Sums, b: Sums) -> Sums:
    keys = dict.fromkeys([*a, *b])
    return {
        k: tuple(x + y for x, y in zip(a[k], b[k], strict=True)) if k in a and k in b else (a.get(k) or b[k])
        for k in keys
    }
