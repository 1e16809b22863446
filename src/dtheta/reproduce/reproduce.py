"""``reproduce``: run the claims of systems one after the other, and keep what was found."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtheta._version import __version__
from dtheta.reproduce.claim import OUTCOMES, Outcome, Row
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.machine import machine
from dtheta.reproduce.systems import SYSTEMS, System, system_called

PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Reproduced:
    """What was found for one system, in how many CPU seconds; runs from the file count with the seconds they took.

    ``kept`` are the seconds of those: whatever machine and versions of other packages they were made with.
    """

    name: str
    system: System
    rows: tuple[Row, ...]
    seconds: float
    kept: float = 0.0

    def count(self, outcome: Outcome) -> int:
        """Return how many rows have an outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "name": self.name, "title": self.system.title, "paper": self.system.paper, "page": self.system.page,
            "seconds": self.seconds, "kept_seconds": self.kept, "rows": [row.to_dict() for row in self.rows],
        }  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """What was found for all systems that were asked for, and where and when."""

    systems: tuple[Reproduced, ...]
    fast: bool
    on: str
    date: str
    seeds: int | None = None

    def count(self, outcome: Outcome) -> int:
        """Return how many rows have an outcome."""
        return sum(found.count(outcome) for found in self.systems)

    @property
    def place(self) -> str:
        """When and where it was run, as far as it was run now."""
        kept, seconds = (sum(getattr(one, what) for one in self.systems) for what in ("kept", "seconds"))
        if not kept:
            return f"{self.date}, {self.on}"
        share = f"{100 * kept / seconds:.0f} % of the CPU time"
        return f"{self.date}, {self.on}; {share} is that of earlier runs, taken up from the folder"

    @property
    def command(self) -> str:
        """What runs it again."""
        names = [one.name for one in self.systems]
        size = " --fast" if self.fast else ""
        seeds = "" if self.seeds is None else f" --seeds {self.seeds}"
        return f"dtheta reproduce {'all' if names == list(SYSTEMS) else ' '.join(names)}{size}{seeds}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "dtheta": __version__, "date": self.date, "on": self.on, "size": "fast" if self.fast else "full",
            "seeds": self.seeds,
            "systems": [found.to_dict() for found in self.systems],
        }  # fmt: skip


_ONE_AND_MANY: dict[Outcome, tuple[str, str]] = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "not shown": ("is not shown", "are not shown"),
    "not testable here": ("is not testable here", "are not testable here"),
}


def counted(found: Reproduction) -> str:
    """Return how many claims had which outcome, in words."""
    said = []
    for outcome in OUTCOMES:
        if count := found.count(outcome):
            said.append(f"{count} {_ONE_AND_MANY[outcome][count != 1]}")
    return ", ".join(said)


def reproduce(
    names: Sequence[str] = (),
    *,
    fast: bool = False,
    seeds: int | None = None,
    folder: Path | None = None,
    note: Callable[[str], None] | None = None,
    found: Callable[[Reproduced], None] | None = None,
) -> Reproduction:
    """Run the claims of systems.

    Args:
        names: Names of ``SYSTEMS``; all where none is given.
        fast: The small size, all twelve within a quarter of an hour on two cores; the full one takes hours.
        seeds: Seeds of every experiment; None leaves it to each.
        folder: Where runs are kept as they end, so that an interrupted reproduction goes on where it was.
        note: Told what is being run.
        found: Given each system as it ends.

    Raises:
        ConfigError: For a name that is no system, before anything is run.
    """
    chosen = list(dict.fromkeys(names or SYSTEMS))
    files = {name: system_called(name) for name in chosen}
    done = []
    for name, file in files.items():
        start = time.process_time()
        lab = Lab(name, fast=fast, seeds=seeds, folder=folder, note=note)
        rows = tuple(file.rows(lab))
        spent = time.process_time() - start
        done.append(Reproduced(name, file.SYSTEM, rows, spent + lab.kept_seconds, lab.kept_seconds))
        if found is not None:
            found(done[-1])
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return Reproduction(tuple(done), fast, machine(PACKAGES), today, seeds)
