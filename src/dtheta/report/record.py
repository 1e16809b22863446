"""Results as JSON files: frozen dataclasses, checked as they are read (core/record.py)."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from dtheta.core.jsonfile import write_json
from dtheta.core.record import decode
from dtheta.errors import FormatError

T = TypeVar("T")


def write_record(record: Any, path: str | os.PathLike[str]) -> Path:
    """Write a dataclass as JSON, completely or not at all, and return the path. Raises `OutputError`, `NonFinite`."""
    return write_json(dataclasses.asdict(record), path)


def read_record(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Read what `write_record` wrote. Raises `FormatError` where the file is not that."""
    return decode(read_json(path), kind, str(path))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON in a file. Raises `FormatError` where there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a readable JSON file of results ({error})") from error
