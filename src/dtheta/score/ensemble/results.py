"""Results of a verification: scores by metric, channel, region and lead, each with its interval over starts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.core.jsonfile import write_json
from dtheta.errors import ConfigError, did_you_mean
from dtheta.score.ensemble.entries import Lead
from dtheta.score.ensemble.statistic import Aim
from dtheta.score.interval import Interval


@dataclass(frozen=True)
class Score:
    """One score, or one curve, of one channel in one region at one lead.

    Attributes:
        metric, channel, region, lead: Which.
        unit: Of the value; "1" for numbers without one.
        aim: Where it should be: "higher", "lower", "zero", "one", or "none".
        starts: Over how many starts.
        value: (), (points,) or (points, columns); NaN where it does not exist.
        low, high: Bounds of the interval, of the same shape; NaN for one start.
        level: Of the interval.
        axis, points, columns: What a curve's points are, by words or numbers where these are known, and its columns.
    """

    metric: str
    channel: str
    region: str
    lead: Lead
    unit: str
    aim: Aim
    starts: int
    value: Tensor
    low: Tensor
    high: Tensor
    level: float
    axis: str = ""
    points: tuple[Any, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval:
        """Estimate and bounds of a score that is a number.

        Raises:
            ConfigError: If it is a curve.
        """
        if self.value.ndim:
            raise ConfigError(f"{self.metric} is a curve of {len(self.value)} points; read .value, .low and .high")
        low, high = float(self.low), float(self.high)
        return Interval(float(self.value), low, high, self.level, "bootstrap-percentile")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and words; None for NaN and infinity."""
        plain = {name: getattr(self, name) for name in ("metric", "channel", "region", "lead", "unit", "aim", "starts")}
        numbers = {name: _plain(getattr(self, name).tolist()) for name in ("value", "low", "high")}
        curve = {"axis": self.axis, "points": list(self.points), "columns": list(self.columns)} if self.axis else {}
        return plain | numbers | curve


@dataclass(frozen=True)
class VerificationResult:
    """Scores, and how their intervals were had.

    Attributes:
        scores: All of them.
        level: Of the intervals.
        resamples, block, seed: Of the bootstrap over starts.
        members: Sizes of the ensembles, smallest and largest.
    """

    scores: tuple[Score, ...]
    level: float
    resamples: int
    block: int
    seed: int
    members: tuple[int, int]

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def select(
        self,
        metric: str | None = None,
        channel: str | None = None,
        region: str | None = None,
        lead: Lead | None = None,
    ) -> tuple[Score, ...]:
        """Return the scores that are of these; what is left out may be anything.

        Raises:
            ConfigError: If nothing of this name is there.
        """
        found = self.scores
        for name, wanted in (("metric", metric), ("channel", channel), ("region", region), ("lead", lead)):
            if wanted is None:
                continue
            known = dict.fromkeys(getattr(score, name) for score in found)
            if wanted not in known:
                near = did_you_mean(wanted, map(str, known)) if isinstance(wanted, str) else ""
                raise ConfigError(f"no {name} {wanted!r}; there is {', '.join(map(str, known)) or 'none'}{near}")
            found = tuple(score for score in found if getattr(score, name) == wanted)
        return found

    def score(self, metric: str, lead: Lead, channel: str | None = None, region: str = "global") -> Score:
        """Return one score.

        Raises:
            ConfigError: If there is none, or the channel has to be named.
        """
        found = self.select(metric, channel, region, lead)
        if len(found) != 1:
            raise ConfigError(f"{metric}: give a channel of {', '.join(score.channel for score in found)}")
        (score,) = found
        return score

    def series(self, metric: str, channel: str | None = None, region: str = "global") -> tuple[list[Lead], Tensor]:
        """Return the leads, and value, low and high at each (leads, 3, ...)."""
        scores = self.select(metric, channel, region)
        if len({score.channel for score in scores}) > 1:
            raise ConfigError(f"{metric}: give a channel of {', '.join(dict.fromkeys(s.channel for s in scores))}")
        rows = [torch.stack((score.value, score.low, score.high)) for score in scores]
        return [score.lead for score in scores], torch.stack(rows)

    def table(self) -> str:
        """Return the scores that are numbers as text: a line each metric, channel and region, a column each lead."""
        leads = sorted({score.lead for score in self.scores})
        lines: dict[tuple[str, str, str], dict[Lead, str]] = {}
        for score in self.scores:
            if not score.value.ndim:
                key = (score.metric, score.channel, score.region)
                lines.setdefault(key, {})[score.lead] = f"{float(score.value):.4g}"
        head = ["metric", "channel", "region", *map(str, leads)]
        rows = [head, *([*key, *(at.get(lead, "") for lead in leads)] for key, at in lines.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        aligned = [
            [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in rows
        ]
        return "\n".join("  ".join(row).rstrip() for row in aligned)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and words."""
        how = {"level": self.level, "resamples": self.resamples, "block": self.block, "seed": self.seed}
        return {**how, "members": list(self.members), "scores": [score.to_dict() for score in self.scores]}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON.

        Raises:
            OutputError: If it cannot be written.
        """
        return write_json(self.to_dict(), path)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if math.isfinite(value) else None
