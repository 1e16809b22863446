"""What a verification has counted so far: one entry for each start and lead, totals over the cells seen.

Entries of the same start and lead that saw other rows add up; the same rows twice are refused. So the work can be
dealt out by starts, by leads, or by latitude bands, and merged in any order.

Shape legend: C channels, R regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import is_number, number
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score.ensemble.statistic import EnsembleStatistic

Start = int | str
Lead = int | float
Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Entry:
    """Totals of one start and lead.

    Attributes:
        members: Size of the ensemble.
        rows: Rows of cells that are in it, as ranges in order.
        weight: (C, R), sums of the weights of cells.
        totals: By statistic, (C', R, *components), C' the channels that have its references.
    """

    members: int
    rows: Rows
    weight: Tensor
    totals: Mapping[EnsembleStatistic, Tensor]

    def merge(self, other: Entry, where: str) -> Entry:
        """Return the entry of both, of other rows of the same fields.

        Raises:
            ConfigError: If a row is in both, or the ensembles differ in size.
        """
        rows = joined(self.rows, other.rows, where)
        if self.members != other.members:
            raise ConfigError(f"{where}: some rows have {self.members} members and others {other.members}")
        totals = {s: total + other.totals[s] for s, total in self.totals.items()}
        return Entry(self.members, rows, self.weight + other.weight, totals)


Entries = Mapping[tuple[Start, Lead], Entry]


def labels(start: Any, lead: Any) -> tuple[Start, Lead]:
    """Return a start and a lead as plain numbers and words.

    Raises:
        ConfigError: If they are something else.
    """
    if isinstance(start, np.integer):
        start = int(start)
    if isinstance(start, bool) or not isinstance(start, int | str) or not is_number(lead):
        raise ConfigError(f"start {start!r}, lead {lead!r}; expected a whole number or a word, and a number")
    found = number(lead, "lead")
    return start, int(found) if found.is_integer() else found


def joined(a: Rows, b: Rows, where: str) -> Rows:
    """Return the rows of both as ranges in order.

    Raises:
        ConfigError: If a row is in both.
    """
    found: list[tuple[int, int]] = []
    for start, stop in sorted((*a, *b)):
        if found and start < found[-1][1]:
            raise ConfigError(f"{where}: rows {start} to {min(stop, found[-1][1]) - 1} were counted before")
        if found and start == found[-1][1]:
            start = found.pop()[0]
        found.append((start, stop))
    return tuple(found)


def place(start: Start, lead: Lead) -> str:
    """Return words for a start and a lead."""
    return f"start {start}, lead {lead}"


def together(a: Entries, b: Entries) -> dict[tuple[Start, Lead], Entry]:
    """Return the entries of both.

    Raises:
        ConfigError: If something was counted twice, or starts are numbers here and words there.
        ShapeMismatch: If a statistic has other components.
    """
    found = dict(a)
    for key, entry in b.items():
        _require_alike(found, key, entry)
        found[key] = found[key].merge(entry, place(*key)) if key in found else entry
    return found


def _require_alike(entries: Entries, key: tuple[Start, Lead], entry: Entry) -> None:
    """Raise unless an entry can stand beside those that are there: a look at one of them tells."""
    if not entries:
        return
    other_key, other = next(iter(entries.items()))
    if isinstance(key[0], str) != isinstance(other_key[0], str):
        raise ConfigError(
            f"starts are all numbers or all words, so that they have an order: {key[0]!r}, {other_key[0]!r}"
        )
    for statistic, total in entry.totals.items():
        if total.shape != other.totals[statistic].shape:
            raise ShapeMismatch(
                f"{place(*key)}: {statistic} has the components {tuple(total.shape[2:])}, at {place(*other_key)} "
                f"{tuple(other.totals[statistic].shape[2:])} (members: {entry.members}, {other.members}); "
                "give a number of bins"
            )


def of_lead(entries: Entries, lead: Lead) -> list[tuple[Start, Entry]]:
    """Return the entries of one lead in the order of their starts, which are all numbers or all words."""
    found: list[Any] = [(start, entry) for (start, at), entry in entries.items() if at == lead]
    return sorted(found, key=lambda pair: pair[0])


def leads_of(entries: Entries) -> list[Lead]:
    """Return the leads in order."""
    return sorted({lead for _, lead in entries})


def require_complete(entries: Entries, height: int, leads: tuple[Lead, ...] | None, gaps: bool) -> None:
    """Raise unless every start has all of the leads, those expected or those of others, each with all rows.

    Raises:
        ConfigError: If nothing was counted, or something is missing, naming the first; ``gaps`` allows missing leads.
    """
    if not entries:
        raise ConfigError("nothing was counted: call update with forecasts and truth first")
    for key, entry in entries.items():
        if entry.rows != ((0, height),):
            ranges = ", ".join(f"{a}:{b}" for a, b in entry.rows)
            raise ConfigError(f"{place(*key)}: only rows {ranges} of {height} were counted")
    wanted = leads if leads is not None else leads_of(entries)
    missing = [(s, lead) for s in starts_of(entries) for lead in wanted if (s, lead) not in entries]
    if missing and not gaps:
        raise ConfigError(
            f"{len(missing)} pairs of start and lead are missing, the first: {place(*missing[0])}; count them, or "
            "take what is there with gaps=True"
        )


def starts_of(entries: Entries) -> tuple[Start, ...]:
    """Return the starts in order."""
    found: set[Any] = {start for start, _ in entries}
    return tuple(sorted(found))


def stacked(entries: list[tuple[Start, Entry]], statistic: EnsembleStatistic) -> Tensor:
    """Return the totals (starts, C', R, *components) of a statistic."""
    return torch.stack([entry.totals[statistic] for _, entry in entries])
