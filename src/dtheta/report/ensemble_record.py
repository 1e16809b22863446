"""The record that the report of an ensemble is drawn from.

Shape legend: M members, m of them that are drawn, T leads, H latitudes, W longitudes, K elements of one axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.score.ensemble import Score, VerificationResult


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One channel at one lead of one start.

    Attributes:
        channel: its name.
        hours: the lead.
        mean: of the members, (H, W) or (K,).
        spread: standard deviation of the members.
        truth: what happened.
    """

    channel: str
    hours: float
    mean: Tensor
    spread: Tensor
    truth: Tensor


@dataclass(frozen=True, eq=False)
class Plume:
    """One channel at one place over all leads of one start.

    Attributes:
        place: in words.
        channel: its name.
        hours: the leads (T,).
        members: (m, T).
        mean: of all members (T,).
        truth: (T,).
    """

    place: str
    channel: str
    hours: Sequence[float]
    members: Tensor
    mean: Tensor
    truth: Tensor


@dataclass(frozen=True, eq=False)
class EnsembleRun:
    """All that the page is drawn from.

    Attributes:
        scores: of all starts.
        name: of the network.
        truth: what the truth is.
        members: M.
        start: of the snapshots and plumes.
        units: by channel.
        latitudes, longitudes: of the snapshots, in degrees; empty where these have one axis.
        snapshots: channels and leads.
        plumes: places.
        deviation: standard deviation of the climate by channel, over the globe; empty where it is not known.
        settings: names and values for the end of the page.
    """

    scores: VerificationResult
    name: str
    truth: str
    members: int
    start: str
    units: Mapping[str, str]
    latitudes: Sequence[float] = ()
    longitudes: Sequence[float] = ()
    snapshots: Sequence[Snapshot] = ()
    plumes: Sequence[Plume] = ()
    deviation: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.scores):
            raise ConfigError("an ensemble without scores has nothing to show")

    @property
    def metrics(self) -> list[str]:
        """Names, in order."""
        return list(dict.fromkeys(score.metric for score in self.scores))

    @property
    def channels(self) -> list[str]:
        """Names, in order."""
        return list(dict.fromkeys(score.channel for score in self.scores))

    @property
    def regions(self) -> list[str]:
        """Names, in order, the globe first."""
        return list(dict.fromkeys(score.region for score in self.scores))

    @property
    def starts(self) -> int:
        """How many."""
        return max(score.starts for score in self.scores)

    def series(self, metric: str, channel: str, region: str = "global") -> list[Score]:
        """Return scores by lead; empty where there are none."""
        found = [s for s in self.scores if (s.metric, s.channel, s.region) == (metric, channel, region)]
        return sorted(found, key=lambda score: score.lead)

    def unit(self, channel: str) -> str:
        """Return the unit of a channel for an axis; empty for a pure number."""
        unit = self.units.get(channel, "")
        return "" if unit == "1" else unit
