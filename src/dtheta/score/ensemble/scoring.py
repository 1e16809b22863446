"""One start and lead: members and truth, checked and cut into cases of one channel each.

Shape legend: M members, C channels, R regions, ``cells`` as the verification has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import NonFinite, ShapeMismatch
from dtheta.score.ensemble.entries import Lead, Start, place
from dtheta.score.ensemble.regions import Cells
from dtheta.score.ensemble.source import ALL, Source
from dtheta.score.ensemble.statistic import AdditiveStatistic, Case, EnsembleStatistic, Transform

_BYTES = 32  # for each member and cell of a band: the values, and temporaries in float64


@dataclass(frozen=True)
class Scene:
    """The truth of one start and lead in some rows, and all that members are held against there.

    Attributes:
        start, lead: Labels.
        channels: Names, one at least.
        cells: Of whole fields.
        rows: Range of rows that truth and mask have.
        truth: (C, rows, ...).
        mask: (C, rows, ...), True where a cell counts; None for all.
        references: By name and channel, of whole fields.
        transform: Of the sphere, or None.
        seed: Of random ties.
        memory: Bytes for a band of members and its temporaries.
    """

    start: Start
    lead: Lead
    channels: tuple[str, ...]
    cells: Cells
    rows: tuple[int, int]
    truth: Tensor
    mask: Tensor | None
    references: dict[str, dict[str, Tensor]]
    transform: Transform | None
    seed: int
    memory: int

    def __post_init__(self) -> None:
        """Raise NonFinite where the truth has a gap that the mask does not name."""
        for channel in range(len(self.channels)):
            masked = self.truth[channel] if self.mask is None else self.truth[channel][self.mask[channel]]
            if not bool(torch.isfinite(masked).all()):
                gaps = ~torch.isfinite(self.truth[channel])
                raise self._gap(
                    "truth", channel, gaps if self.mask is None else gaps & self.mask[channel], self.rows[0]
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows at hand."""
        return (self.rows[1] - self.rows[0], *self.cells.shape[1:])

    @cached_property
    def weight(self) -> Tensor:
        """Sums of the weights of cells (C, R)."""
        count = len(self.channels)
        return torch.stack([self._weights(c, *self.rows).flatten(1).sum(1) for c in range(count)])

    def case(self, channel: int, first: int, last: int, device: torch.device) -> Case:
        """Return the case of a channel in rows ``first`` to ``last`` of the field."""
        name = self.channels[channel]
        inner = slice(first - self.rows[0], last - self.rows[0])
        count = len(self.cells.shape)
        fields = {
            key: by[name].narrow(by[name].ndim - count, first, last - first).to(device)
            for key, by in self.references.items()
            if name in by
        }
        truth = self.truth[channel, inner]
        if self.mask is not None:
            truth = torch.where(self.mask[channel, inner], truth, torch.zeros_like(truth))
        weights = self._weights(channel, first, last).to(device)
        return Case(
            truth.to(device),
            weights,
            fields,
            lambda: self._uniforms(channel)[first:last].to(device),
            self.transform,
            f"channel {name!r}, {place(self.start, self.lead)}",
        )

    def totals(self, source: Source, channel: int, statistics: tuple[EnsembleStatistic, ...]) -> dict:
        """Return the totals (R, *components) of a channel, by statistic, reading its members band by band."""
        found: dict[EnsembleStatistic, Tensor] = {}
        whole = [s for s in statistics if s.whole_field]
        by_rows = [s for s in statistics if not s.whole_field]
        bands = list(self.bands(source.members))
        if len(bands) == 1:
            by_rows, whole = list(statistics), []
        for first, last in bands if by_rows else []:
            members = self.members(source, channel, first, last)
            case = self.case(channel, first, last, members.device)
            for statistic in by_rows:
                total = statistic.totals(members, case).cpu()
                found[statistic] = found[statistic] + total if statistic in found else total
        for statistic in whole:
            found[statistic] = self._field_totals(source, channel, statistic).cpu()
        return found

    def _field_totals(self, source: Source, channel: int, statistic: EnsembleStatistic) -> Tensor:
        """Return the totals of a statistic of whole fields: some members at a time where it adds up."""
        if not isinstance(statistic, AdditiveStatistic) or not source.whole:
            members = self.members(source, channel, *self.rows)
            return statistic.totals(members, self.case(channel, *self.rows, members.device))
        size = max(1, self.memory // (_BYTES * self.cells.weights[0].numel()))
        sums: tuple[Tensor, ...] | None = None
        case = None
        for first in range(0, source.members, size):
            members = self.members(source, channel, *self.rows, slice(first, first + size))
            case = case or self.case(channel, *self.rows, members.device)
            part = statistic.sums(members, case)
            sums = part if sums is None else tuple(a + b for a, b in zip(sums, part, strict=True))
        assert sums is not None and case is not None
        return statistic.of_sums(sums, source.members, case)

    def bands(self, members: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows whose members and temporaries fit into the memory; one row at least."""
        row = self.cells.weights[0, 0].numel()
        size = max(1, self.memory // (_BYTES * members * row))
        for first in range(self.rows[0], self.rows[1], size):
            yield first, min(first + size, self.rows[1])

    def members(self, source: Source, channel: int, first: int, last: int, some: slice = ALL) -> Tensor:
        """Return the members (m, rows, ...) of a channel, 0 where the mask has none.

        Raises:
            NonFinite: If a value is NaN or infinite, naming channel, start, lead, member and cell.
        """
        offset = self.rows[0] if source.whole else 0
        found = source.read(channel, slice(first - offset, last - offset), some)
        return self.checked(found, channel, first, last, some.start or 0)

    def checked(self, found: Tensor, channel: int, first: int, last: int, member: int = 0) -> Tensor:
        """Return members (m, rows, ...) with 0 where the mask has none; errors are those of ``members``."""
        if self.mask is not None:
            inner = self.mask[channel, first - self.rows[0] : last - self.rows[0]].to(found.device)
            found = torch.where(inner, found, torch.zeros_like(found))
        # A sum is finite where all values are, and costs one pass; only when it is not does one look closer.
        if not bool(torch.isfinite(found.sum())) and not bool(torch.isfinite(found).all()):
            raise self._gap("forecast", channel, ~torch.isfinite(found), first, member)
        return found

    def _gap(self, what: str, channel: int, gaps: Tensor, first: int, member: int | None = None) -> NonFinite:
        index = [int(i) for i in gaps.nonzero()[0]]
        who = "" if member is None else f", member {member + index.pop(0)}"
        index[0] += first
        return NonFinite(
            f"{what}: NaN or infinity in channel {self.channels[channel]!r}, {place(self.start, self.lead)}{who}, "
            f"{self.cells.place(tuple(index))}, and {int(gaps.sum()) - 1} more values of {gaps.numel()}; "
            "leave out cells without data by mask=..., True where a cell counts"
        )

    def _weights(self, channel: int, first: int, last: int) -> Tensor:
        weights = self.cells.weights[:, first:last]
        return (
            weights if self.mask is None else weights * self.mask[channel, first - self.rows[0] : last - self.rows[0]]
        )

    def _uniforms(self, channel: int) -> Tensor:
        """Return random numbers of the whole field, so that a band has those of its cells."""
        key = f"ties: start {self.start}, lead {self.lead}, channel {self.channels[channel]}"
        return torch.rand(self.cells.shape, generator=generator(self.seed, key), dtype=torch.float64)


def mask_of(mask: Tensor | None, shape: tuple[int, ...], channels: int, where: str) -> Tensor | None:
    """Return a mask (C, *cells) of one given for all channels (*cells) or each of them.

    Raises:
        ShapeMismatch: If it is no mask of these cells.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, (channels, *shape)):
        raise ShapeMismatch(
            f"{where}: mask is {mask.dtype} of shape {tuple(mask.shape)}; expected booleans {shape} or "
            f"{(channels, *shape)}, True where a cell counts"
        )
    return mask.expand(channels, *shape) if mask.ndim == len(shape) else mask
