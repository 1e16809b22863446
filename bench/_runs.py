"""Runs of long benchmarks, kept in a file as they end, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def best_rate(ladder: Sequence[float], first: Sequence[float], loss: Callable[[float], float]) -> float:
    """Return the rate of lowest loss on a ladder: its two neighbors are worse, or it stands at an end.

    Args:
        ladder: Rates, ascending.
        first: The lowest and the highest of those to begin with; the search goes on outwards from there.
        loss: Of a rate; asked once each.
    """
    low, high = ladder.index(first[0]), ladder.index(first[-1])
    losses: dict[int, float] = {}
    while True:
        for i in sorted(set(range(low, high + 1)) - set(losses)):
            losses[i] = loss(ladder[i])
        best = min(losses, key=lambda i: losses[i])
        if low < best < high or best in (0, len(ladder) - 1):
            return ladder[best]
        low, high = min(low, best - 1), max(high, best + 1)


class Runs:
    """Records by key, one JSON line each; the values of the fields of a record are its key."""

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path, self.fields = path, tuple(fields)
        lines = path.read_text().splitlines() if path.exists() else []
        self.done = {tuple(run[field] for field in self.fields): run for run in map(json.loads, lines)}

    def get(self, key: Sequence[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a record, from the file or made now."""
        key = tuple(key)
        if key not in self.done:
            found = dict(zip(self.fields, key, strict=True)) | make()
            self.done[key] = found
            with self.path.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(*key, "done", file=sys.stderr, flush=True)
        return self.done[key]
