"""Lab: what experiments share, their size, their seeds, models loaded once, and runs that are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dtheta._version import __version__
from dtheta.core.arguments import whole
from dtheta.reproduce.runs import Runs

FIELDS = ("system", "size", "version", "experiment", "setting", "seed")
_SECONDS = "cpu_seconds"


class Lab:
    """Where the experiments of a system run.

    Args:
        system: Name of the system.
        fast: Whether the small size is wanted: about a minute of one core a system.
        seeds: Number of seeds; None leaves it to the experiment (``seeds_or``).
        folder: Where runs are kept as they end; None keeps them in memory.
        note: Told what is being run.
    """

    def __init__(
        self, system: str, *, fast: bool = False, seeds: int | None = None, folder: Path | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.system, self.fast, self.folder = system, fast, folder
        self._seeds = None if seeds is None else whole(seeds, "seeds", least=1)
        self._note = note or (lambda text: None)
        self._kept: dict[tuple[Any, ...], float] = {}  # CPU seconds of the runs that another process has made
        self._made: set[tuple[Any, ...]] = set()

    @property
    def size(self) -> str:
        """Name of the size, by which runs are kept apart."""
        return "fast" if self.fast else "full"

    def sized(self, fast: Any, full: Any) -> Any:
        """Return what belongs to this size."""
        return fast if self.fast else full

    def seeds_or(self, fast: int, full: int) -> range:
        """Return the seeds, as asked for or as many as the experiment takes at this size."""
        return range(self.sized(fast, full) if self._seeds is None else self._seeds)

    def run(
        self, experiment: str, setting: str, seed: int, make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:  # fmt: skip
        """Return the record of one run: from the file, or made now and kept.

        Args:
            experiment: Which experiment of the system.
            setting: Everything that tells this run from others of its seed, e.g. "bbc LoRA lr 0.001".
            seed: Its seed.
            make: Runs it; what it returns must go into JSON.
        """
        self._note(f"{self.system}: {experiment}, {setting}, seed {seed}")
        key = (self.system, self.size, __version__, experiment, setting, seed)

        def timed() -> dict[str, Any]:
            start = time.process_time()
            self._made.add(key)
            return {**make(), _SECONDS: time.process_time() - start}

        found = self._runs.get(key, timed)
        if key not in self._made:
            self._kept[key] = found.get(_SECONDS, 0.0)
        return found

    @property
    def kept_seconds(self) -> float:
        """CPU seconds that runs taken from the file took when they were made."""
        return sum(self._kept.values())

    @cached_property
    def _runs(self) -> Runs:
        path = None if self.folder is None else self.folder / f"{self.system}.runs.jsonl"
        return Runs(path, FIELDS, told=False)  # the note tells of each before it is made
