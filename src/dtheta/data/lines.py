"""Tables of one's own, line by line: CSV, TSV and JSONL, with errors that name the line.

Nothing is skipped or repaired: a line that cannot be meant stops the reading.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dtheta.errors import ConfigError, FormatError, did_you_mean

_DELIMITER = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")
_FIELD_LIMIT = 1 << 28  # csv's own limit of 128 KiB is shorter than a book chapter
_SHOWN = 8  # columns named in a message


def numbered_lines(path: Path, encoding: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each line, counted from 1, and its fields by column.

    Raises:
        ConfigError: If there is no such file, it is a folder, its suffix is not read, or the encoding is unknown.
        FormatError: For undecodable bytes, a row of another width than the header, a column or field that is there
            twice, bad JSON, or an empty file.
    """
    content = _decode(path, encoding)
    return _json_lines(path, content) if path.suffix.lower() in _JSON else _delimited_lines(path, content)


def has_header(path: Path) -> bool:
    """Tell whether the first line of such a file names the columns."""
    return path.suffix.lower() in _DELIMITER


def _decode(path: Path, encoding: str) -> str:
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder; give one file ({', '.join((*_DELIMITER, *_JSON))}) in it")
    if path.suffix.lower() not in (*_DELIMITER, *_JSON):
        raise ConfigError(f"{path}: only {', '.join((*_DELIMITER, *_JSON))} files are read, by their suffix")
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    content = path.read_bytes()
    try:
        decoded = content.decode(encoding)
    except LookupError as error:
        raise ConfigError(f"unknown encoding {encoding!r}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        guess = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise FormatError(
            f"{path.name}, line {line}: byte {content[error.start]:#04x} is not {encoding}; "
            f"save the file as UTF-8, or give its encoding (encoding={guess!r}?)"
        ) from error
    if not decoded.strip("\ufeff \t\r\n"):
        raise FormatError(f"{path.name}, line 1: the file is empty")
    return decoded.removeprefix("\ufeff")


def _delimited_lines(path: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=_DELIMITER[path.suffix.lower()], strict=True)
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        header = next(reader)
        _check_header(header, path)
        start = reader.line_num + 1
        for row in reader:
            if row:  # a blank line between rows is no row in any dialect of CSV
                _check_width(row, header, f"{path.name}, line {start}")
                yield start, dict(zip(header, row, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise FormatError(f"{path.name}, line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _check_header(header: list[str], path: Path) -> None:
    if twice := sorted(name for name, count in Counter(header).items() if count > 1):
        raise FormatError(f"{path.name}, line 1: the column name {twice[0]!r} occurs twice")


def _check_width(row: list[str], header: list[str], where: str) -> None:
    if len(row) != len(header):
        raise FormatError(
            f"{where}: {len(row)} fields, but the header has {len(header)}; "
            f"a text that holds the separator or a line break must stand in double quotes"
        )


def _json_lines(path: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(content.split("\n"), start=1):  # not splitlines: U+2028 may stand in a text
        if not line.strip():
            continue
        try:
            fields = json.loads(line, object_pairs_hook=_fields_once)
        except FormatError as error:
            raise FormatError(f"{path.name}, line {number}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path.name}, line {number}: not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise FormatError(f"{path.name}, line {number}: expected a JSON object, found {type(fields).__name__}")
        yield number, fields


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object, of which a later one would replace one of the same name without a word."""
    if twice := sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1):
        raise FormatError(f"the field {twice[0]!r} occurs twice")
    return dict(pairs)


def _field(fields: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in fields:
        shown = ", ".join(list(fields)[:_SHOWN]) + (", ..." if len(fields) > _SHOWN else "")
        raise ConfigError(f"{where}: no column {column!r}; there are: {shown}{did_you_mean(column, fields)}")
    return fields[column]


def text_field(fields: Mapping[str, Any], column: str, where: str) -> str:
    """Return a text of a line.

    Raises:
        ConfigError: If there is no such column.
        FormatError: If it is empty, or no string.
    """
    value = _field(fields, column, where)
    if not isinstance(value, str):
        raise FormatError(f"{where}: {column!r} must be a string, found {type(value).__name__}")
    if not value.strip():
        raise FormatError(f"{where}: {column!r} is empty")
    return value


def label_field(fields: Mapping[str, Any], column: str, where: str) -> str:
    """Return a class name of a line; integers and booleans become text.

    Raises:
        ConfigError: If there is no such column.
        FormatError: If it is empty, or of another type.
    """
    value = _field(fields, column, where)
    if not isinstance(value, str | int):
        raise FormatError(f"{where}: {column!r} must be a string, integer or boolean, found {type(value).__name__}")
    if not str(value).strip():
        raise FormatError(f"{where}: {column!r} is empty")
    return str(value).strip()
