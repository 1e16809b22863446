"""Runs of long experiments, kept in a file as they end, so that an interrupted experiment goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dtheta.core.locks import lock
from dtheta.errors import FormatError, OutputError


class Runs:
    """Records by key, one JSON line each; the values of the fields of a record are its key.

    Processes may share a file: each adds whole lines, and what two of them ran at once stands in it twice.

    Args:
        path: The file; None keeps records in memory alone.
        fields: Names of what makes the key.
        told: Whether stderr is told of each run as it ends.

    Raises:
        FormatError: If a line of the file is no record of these fields; a last line that was cut off is left out.
        OutputError: If such a line cannot be taken out of the file.
    """

    def __init__(self, path: Path | None, fields: Sequence[str], told: bool = True) -> None:
        self.path, self.fields, self.told = path, tuple(fields), told
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        for run in _read(path, self.fields) if path is not None and path.exists() else ():
            self.done[tuple(run[field] for field in self.fields)] = run

    def get(self, key: Sequence[Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a record, from the file or made now.

        Raises:
            OutputError: If it cannot be kept; the file is then as it was.
        """
        key = tuple(key)
        if key not in self.done:
            found = dict(zip(self.fields, key, strict=True)) | dict(make())
            self.done[key] = found
            self._keep(found)
            if self.told:
                print(*key, "done", file=sys.stderr, flush=True)
        return self.done[key]

    def _keep(self, record: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        with _alone(self.path, "ab") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                left = (json.dumps(record) + "\n").encode()
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


@contextlib.contextmanager
def _alone(path: Path, mode: str) -> Iterator[BinaryIO]:
    """Open a file to write, while no other process does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, buffering=0) as file:
            lock(file)
            yield file  # type: ignore[misc]
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free some space, or choose a folder that you may write "
            "to. What was kept before is there, and the same command goes on from it"
        ) from error


def _read(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    content = _content(path)
    if not content.endswith(b"\n") and content:
        with _alone(path, "r+b") as file:  # an interrupted write; the next record must not be glued to it
            content = file.read()  # another process may have been in the middle of it
            content = content[: content.rfind(b"\n") + 1]
            file.truncate(len(content))
    return [_record(line, fields, f"{path}, line {number}") for number, line in enumerate(content.split(b"\n")[:-1], 1)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from error


def _record(line: bytes, fields: Sequence[str], where: str) -> dict[str, Any]:
    try:
        run = json.loads(line)
        if not isinstance(run, dict) or not set(fields) <= run.keys():
            raise ValueError("no record")
        hash(tuple(run[field] for field in fields))
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{where}: expected a JSON record with {', '.join(fields)} ({error}); "
            "move the file away to run everything again"
        ) from error
    return run
