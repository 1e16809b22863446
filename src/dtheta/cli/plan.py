"""Plan: what a command would do, for ``--dry-run``. Files are only looked at; nothing is written or fetched."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.units import byte_size, duration

PROGRAM = 400 << 20  # bytes that Python, torch and the compiled kernels take before any data, about
_DISK_RATE = 3e8  # bytes a second


@dataclass(frozen=True)
class Plan:
    """What a command would read and write.

    Attributes:
        reads: What is read, and how many bytes; None where that is not known.
        writes: What is written, and about how many bytes.
        memory: Bytes at the peak, about.
        seconds: Time, about; None where there is no way to say.
        settings: The resolved options.
    """

    reads: Mapping[str, int | None]
    writes: Mapping[str, int | None] = field(default_factory=dict)
    memory: int | None = None
    seconds: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def show(self, console: Console) -> None:
        """Print the plan as the command's result."""
        record = {
            "dry_run": True,
            "reads": dict(self.reads),
            "writes": dict(self.writes),
            "memory": self.memory,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }
        console.result(record, self._parts())

    def _parts(self) -> list[Part]:
        rows = [("read", name, _bytes(size)) for name, size in self.reads.items()]
        rows += [("write", name, _bytes(size)) for name, size in self.writes.items()]
        memory = "unknown" if self.memory is None else f"about {byte_size(self.memory)}"
        time = "unknown" if self.seconds is None else f"about {duration(self.seconds)}"
        settings = ", ".join(f"{k}={v}" for k, v in self.settings.items() if v is not None)
        lines = [f"peak memory  {memory}", f"time         {time}"]
        lines += [f"settings     {settings}"] if settings else []
        return [
            "nothing was done; this is what would be:",
            Table(("", "what", "size>"), rows),
            "\n".join(lines),
            *self.notes,
        ]


def _bytes(size: int | None) -> str:
    return "?" if size is None else byte_size(size)


def size_of(path: Path | None) -> int | None:
    """Return the bytes of a file, or of the files directly in a folder; None where there is neither."""
    if path is None:
        return None
    if path.is_dir():
        return sum(p.stat().st_size for p in path.iterdir() if p.is_file())
    return path.stat().st_size if path.is_file() else None


def size_within(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder and those in it, such as a zarr group."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def reading_time(size: int | None) -> float:
    """Return about how many seconds it takes to read, or write, so many bytes and look at each."""
    return (size or 0) / _DISK_RATE


def free_space(path: Path) -> int:
    """Return the free bytes of the file system that holds ``path``, or will hold it."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
