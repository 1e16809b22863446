"""JSON files: read with errors that say what is wrong, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dtheta.core.output import write_file
from dtheta.core.tensorfile import existing, parse_json, read_bytes
from dtheta.errors import NonFinite


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON in a file; duplicate keys, NaN, infinity, bad text and bottomless nesting are refused.

    Raises:
        ConfigError: If there is no such file.
        FormatError: If it cannot be read, or is no JSON.
    """
    file = existing(path)
    return parse_json(read_bytes(file), str(file))


def write_json(document: Any, path: str | os.PathLike[str], indent: int = 1) -> Path:
    """Write plain values as JSON, complete or not at all, and return the path.

    Args:
        document: Tables, lists, text, booleans, None, and numbers that are finite.
        path: The file; an existing one is replaced.
        indent: Spaces of a level.

    Raises:
        OutputError: If the file cannot be written.
        NonFinite: For NaN or infinity, which JSON has no word for and ``read_json`` refuses.
    """
    try:
        text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NonFinite(f"cannot write {path}: a number in it is NaN or infinite ({error})") from None
    with write_file(path) as stream:
        stream.write(f"{text}\n".encode(errors="backslashreplace"))  # of half a surrogate pair: as JSON escapes it
    return Path(path)


def json_digest(document: Any) -> str:
    """Return the sha256, hexadecimal, of plain values as JSON with sorted keys: equal for equal content."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
