"""Progress: a JSONL log for machines, and a bar on standard error for people at a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from dtheta.core.output import write_file
from dtheta.errors import OutputError


class Log:
    """One JSON object a line, written as things happen; a resumed run goes on where its checkpoint was."""

    def __init__(self, path: Path | None, after: int | None) -> None:
        """Open ``path`` anew, or keep its lines up to step ``after``; None as path writes nothing.

        Raises:
            OutputError: the file cannot be written.
        """
        self._file: TextIO | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [] if after is None or not path.exists() else _lines_until(path, after)
            with write_file(path) as handle:
                handle.write("".join(kept).encode())
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write the log {path}: {error.strerror or error}") from error

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append a line; numbers that are not finite become null.

        Raises:
            OutputError: the disk is full, say.
        """
        if self._file is None:
            return
        line = {"event": event, "step": step, **{name: _plain(value) for name, value in fields.items()}}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write the log {self._file.name}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines_until(path: Path, step: int) -> list[str]:
    """Return the whole lines of a log that speak of steps up to ``step``."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            counts = record.get("step", 0) <= step and record.get("event") != "end"
        except (ValueError, TypeError, AttributeError, RecursionError):
            break  # the line during which the process was killed, or one that no run wrote
        if counts:
            kept.append(line + "\n")
    return kept


class Bar:
    """A progress bar on standard error, if that is a terminal and nobody asked for quiet."""

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        """Start the bar at ``done`` of ``total`` steps."""
        self._progress: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        say = TextColumn("{task.fields[say]}")
        columns = (TextColumn("fit"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), say)
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("fit", total=total, completed=done, say="")
        self._scores = ""
        self._progress.start()

    def step(self, loss: float) -> None:
        """Advance by one step."""
        if self._progress is not None:
            self._progress.update(self._task, advance=1, say=f"loss {loss:.4g}{self._scores}")

    def scores(self, scores: Mapping[str, float]) -> None:
        """Show the scores of the latest evaluation."""
        if self._progress is not None:
            self._scores = "".join(f"  eval {name} {value:.4g}" for name, value in scores.items())

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
