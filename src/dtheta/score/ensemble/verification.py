"""Verification: forecasts of many starts against the truth, counted as they come, scored at the end.

    update   one start and lead: members and truth -> totals of statistics over the cells of each region
    result   totals of all starts -> means -> metrics, with intervals from a block bootstrap over starts

What was counted is small, whatever the ensemble: members are read by bands of rows that fit the memory. Workers count
other starts, leads or rows and are merged; ``gather`` takes members in parts, for metrics that are sums over members.

Shape legend: M members, C channels, R regions, ``cells`` (H, W) or any other.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, did_you_mean
from dtheta.score.ensemble import partial
from dtheta.score.ensemble.checks import (
    described,
    distinct,
    metrics_of,
    require_lead,
    require_members,
    require_whole,
    rows_of,
)
from dtheta.score.ensemble.entries import (
    Entries,
    Entry,
    Lead,
    Start,
    labels,
    place,
    require_complete,
    starts_of,
    together,
)
from dtheta.score.ensemble.intervals import require_comparable, scored
from dtheta.score.ensemble.members import MemberSums
from dtheta.score.ensemble.references import ONLY, Reference, References, digest
from dtheta.score.ensemble.regions import Box, GridLike, cells_of
from dtheta.score.ensemble.results import VerificationResult
from dtheta.score.ensemble.scoring import Scene, mask_of
from dtheta.score.ensemble.source import field, source_of
from dtheta.score.ensemble.statistic import AdditiveStatistic, EnsembleMetric, EnsembleStatistic, Transform
from dtheta.score.ensemble.units import require_same_units, units_of


class Verification:
    """Scores of an ensemble under way.

    Args:
        metrics: What to score; names must differ.
        grid: Where the cells lie on the sphere, such as `Grid(32, 64)`; gives areas.
        cells: Shape of a field, where there is no grid.
        weights: (*cells) or (rows,) in place of the grid's areas.
        channels: Names, the second dimension of a forecast; None where fields have no such dimension.
        units: By channel, for results; arrays that tell another unit (``attrs``) are refused.
        regions: By name, boxes or weights (*cells); "global" is always there.
        references: Climatology, thresholds and model climate by name, as ``references`` says.
        transform: Spherical harmonics, for spectra.
        leads: Those that are expected; None for any.
        seed: Of random ties.
        memory: Bytes for a band of members and its temporaries.

    Raises:
        ConfigError: If names are unknown or taken, or something is missing.
        ShapeMismatch: If shapes differ.
        NonFinite: If a weight or reference is NaN or infinite.
    """

    def __init__(
        self,
        metrics: Sequence[EnsembleMetric],
        *,
        grid: GridLike | None = None,
        cells: tuple[int, ...] | None = None,
        weights: Tensor | None = None,
        channels: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        regions: Mapping[str, Box | Tensor] | None = None,
        references: Mapping[str, Reference] | None = None,
        transform: Transform | None = None,
        leads: Sequence[Lead] | None = None,
        seed: int = 0,
        memory: int = 128 << 20,
    ) -> None:
        self.metrics = metrics_of(metrics)
        self.cells = cells_of(grid, cells, weights, regions)
        self.channels = distinct(channels, "channels") if channels is not None else None
        self.units = dict(units or {})
        self.references = References(references or {}, self.channels, self.cells.shape)
        self.transform, self.seed = transform, seed
        self.memory = whole(memory, "memory", least=1)
        self.leads = None if leads is None else distinct([labels(0, lead)[1] for lead in leads], "leads")
        self.entries: Entries = {}
        for channel in self.units:
            if channel not in self.names:
                raise ConfigError(f"units: no channel {channel!r}{did_you_mean(channel, self.names)}")
        needed = (s for metric in self.metrics for s in metric.statistics)
        self.channels_of = {s: self.references.channels_with(s.needs) for s in dict.fromkeys(needed)}
        for metric in self.metrics:
            if len({self.channels_of[s] for s in metric.statistics}) != 1:
                raise ConfigError(f"{metric.name}: its references are not all of the same channels")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels; "field" where fields have none."""
        return self.channels or (ONLY,)

    @property
    def starts(self) -> tuple[Start, ...]:
        """Starts that were counted, in order."""
        return starts_of(self.entries)

    def update(
        self,
        start: Start,
        lead: Lead,
        forecast: Any,
        truth: Any,
        *,
        mask: Tensor | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        """Count one start and lead. Nothing is counted where an error is raised.

        Args:
            start: A date or a number; starts that follow each other must sort so.
            lead: Hours, days or steps.
            forecast: All members, (M, C, *cells): a tensor, an array on disk, or a function (see ``source``).
            truth: (C, *cells).
            mask: (*cells) or (C, *cells), True where a cell counts; gaps elsewhere are allowed.
            rows: Range of rows that the arrays have, where they are a band of the fields; the others come from other
                calls or by ``merge``. None for all.

        Raises:
            ShapeMismatch: If cells, channels or members have other shapes.
            NonFinite: If a value is NaN or infinite, naming channel, start, lead, member and cell.
            ConfigError: If this was counted before, the lead is not expected, there are too few members, or forecast
                and truth tell different units.
        """
        scene = self._scene(start, lead, truth, mask, rows)
        where = place(scene.start, scene.lead)
        told = units_of(truth, self.names)
        require_same_units(units_of(forecast, self.names), self.units | told, f"the forecast at {where}", "the truth")
        source = source_of(forecast, scene.shape, self.channels, where, scene.rows[0])
        require_members(self.metrics, source.members, where)
        by_channel = [
            scene.totals(source, c, tuple(s for s, having in self.channels_of.items() if c in having))
            for c in range(len(self.names))
        ]
        totals = {s: torch.stack([by_channel[c][s] for c in having]) for s, having in self._filled()}
        self._count(scene, source.members, totals)

    def gather(self, start: Start, lead: Lead, truth: Any, *, mask: Tensor | None = None) -> MemberSums:
        """Return an empty collection of members of one start and lead, to which parts of the ensemble are added.

        Raises:
            ConfigError: If a metric needs all members of a cell at once, as CRPS does; others are those of ``update``.
        """
        for metric in self.metrics:
            if not all(isinstance(s, AdditiveStatistic) for s in metric.statistics):
                raise ConfigError(
                    f"{metric.name} needs all members of a cell at once and cannot take them in parts; write the "
                    "members to an array on disk and give that to update, which reads it by bands, or leave it out"
                )
        return MemberSums(self._scene(start, lead, truth, mask, None), self._additive(), self.channels)

    def accept(self, gathered: MemberSums) -> None:
        """Count what ``gather`` collected, all members of one start and lead.

        Raises:
            ConfigError: If this was counted before, or there are too few members.
        """
        totals = gathered.totals()
        require_members(self.metrics, gathered.members, place(gathered.scene.start, gathered.scene.lead))
        self._count(gathered.scene, gathered.members, totals)

    def merge(self, other: Verification) -> Verification:
        """Return the verification of both; they must have the same metrics, cells, channels and references.

        Raises:
            ConfigError: If they differ, or something was counted twice.
        """
        _require_verification(other)
        partial.require_same(self.document(), other.document(), "the other verification")
        merged = copy.copy(self)
        merged.entries = together(self.entries, other.entries)
        return merged

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what was counted; `restore` of an equal verification reads it.

        Raises:
            OutputError: If it cannot be written.
        """
        return partial.save(path, self.document(), self.entries)

    def restore(self, path: str | os.PathLike[str]) -> Verification:
        """Return this verification with what was counted into a file, merged to what is counted here.

        Raises:
            FormatError: If the file is damaged or not such a file.
            ConfigError: If it is of other metrics, cells, channels or references, or something was counted twice.
        """
        merged = copy.copy(self)
        read = partial.load(path, self.document(), dict(self._filled()))
        merged.entries = together(self.entries, read)
        return merged

    def result(
        self, *, level: float = 0.95, resamples: int = 1000, block: int = 1, seed: int = 0, gaps: bool = False
    ) -> VerificationResult:
        """Return the scores with percentile intervals over starts.

        Args:
            level: Of the intervals.
            resamples: Of the starts.
            block: Starts that are drawn together, since neighbors share their weather.
            seed: Of the resamples.
            gaps: Whether leads may lack starts that other leads have; else that is an error.

        Raises:
            ConfigError: If nothing was counted, or starts, leads or rows are missing.
        """
        require_complete(self.entries, self.cells.shape[0], self.leads, gaps)
        return scored(self, None, level=level, resamples=resamples, block=block, seed=seed)

    def difference(
        self, other: Verification, *, level: float = 0.95, resamples: int = 1000, block: int = 1, seed: int = 0
    ) -> VerificationResult:
        """Return this one's scores minus the other's, with intervals of the paired differences over the same starts.

        Raises:
            ConfigError: If metrics, channels, regions, starts or leads differ, or something is missing.
        """
        _require_verification(other)
        require_comparable(self, other)
        return scored(self, other, level=level, resamples=resamples, block=block, seed=seed)

    def document(self) -> dict[str, Any]:
        """Return what tells this verification from others, as plain words and numbers."""
        regions = dict(zip(self.cells.regions, map(digest, self.cells.weights), strict=True))
        return {
            "metrics": [repr(metric) for metric in self.metrics],
            "cells": list(self.cells.shape),
            "channels": list(self.names),
            "units": self.units,
            "regions": regions,
            "references": self.references.digests(),
            "transform": None if self.transform is None else described(self.transform),
            "leads": None if self.leads is None else list(self.leads),
            "seed": self.seed,
        }

    def _scene(self, start: Start, lead: Lead, truth: Any, mask: Tensor | None, rows: tuple[int, int] | None) -> Scene:
        start, lead = labels(start, lead)
        where = place(start, lead)
        height = self.cells.shape[0]
        require_lead(self.leads, lead, where)
        rows = rows_of(rows, height, where)
        require_whole(self.metrics, rows, height, mask is not None, where)
        shape = (rows[1] - rows[0], *self.cells.shape[1:])
        require_same_units(self.units, units_of(truth, self.names), "what is counted", f"the truth at {where}")
        return Scene(
            start,
            lead,
            self.names,
            self.cells,
            rows,
            field(truth, shape, self.channels, f"{where}: truth"),
            mask_of(mask, shape, len(self.names), where),
            self.references.at(start, lead),
            self.transform,
            self.seed,
            self.memory,
        )

    def _count(self, scene: Scene, members: int, totals: dict[EnsembleStatistic, Tensor]) -> None:
        entry = Entry(members, (scene.rows,), scene.weight, totals)
        self.entries = together(self.entries, {(scene.start, scene.lead): entry})

    def _filled(self) -> list[tuple[EnsembleStatistic, tuple[int, ...]]]:
        return [(s, having) for s, having in self.channels_of.items() if having]

    def _additive(self) -> dict[AdditiveStatistic, tuple[int, ...]]:
        return {s: having for s, having in self._filled() if isinstance(s, AdditiveStatistic)}


def _require_verification(other: Any) -> None:
    if not isinstance(other, Verification):
        raise ConfigError(f"a {type(other).__name__} was given; expected another Verification")
