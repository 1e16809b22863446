"""Runs of long experiments, kept in a file as they end, so that an interrupted experiment goes on where it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dtheta.errors import FormatError


class Runs:
    """Records by key, one JSON line each; the values of the fields of a record are its key.

    Args:
        path: The file; None keeps records in memory alone.
        fields: Names of what makes the key.

    Raises:
        FormatError: If a line of the file is no record of these fields; a last line that was cut off is left out.
    """

    def __init__(self, path: Path | None, fields: Sequence[str]) -> None:
        self.path, self.fields = path, tuple(fields)
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        for run in _read(path, self.fields) if path is not None and path.exists() else ():
            self.done[tuple(run[field] for field in self.fields)] = run

    def get(self, key: Sequence[Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a record, from the file or made now."""
        key = tuple(key)
        if key not in self.done:
            found = dict(zip(self.fields, key, strict=True)) | dict(make())
            self.done[key] = found
            self._keep(found)
            print(*key, "done", file=sys.stderr, flush=True)
        return self.done[key]

    def _keep(self, record: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _read(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    text = path.read_text()
    whole, _, cut = text.rpartition("\n")
    if cut:  # an interrupted write; the next record must not be glued to it
        path.write_text(whole + "\n" if whole else "")
    found = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            run = json.loads(line)
            if not isinstance(run, dict) or not set(fields) <= run.keys():
                raise ValueError("no record")
        except ValueError as error:
            raise FormatError(
                f"{path}, line {number}: expected a JSON record with {', '.join(fields)} ({error}); "
                "move the file away to run everything again"
            ) from error
        found.append(run)
    return found
