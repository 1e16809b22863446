"""Runs of long benchmarks, kept in a file as they end, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


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
