"""``load_table``: one's own labeled texts from a CSV, TSV or JSONL file, with errors that name the line.

Nothing is skipped or repaired: a row that cannot be meant stops the reading. Duplicates are kept, and all rows with one
text land on the same side of the split.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtheta.data.text import Row, TextTask, class_names, split, take, to_texts
from dtheta.errors import ConfigError, FormatError, did_you_mean

_DELIMITER = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")
_FIELD_LIMIT = 1 << 28  # csv's own limit of 128 KiB is shorter than a book chapter
_SHOWN = 8  # columns named in a message


@dataclass(frozen=True)
class _Line(Row):
    number: int  # the line in the file, counted from 1


def load_table(
    path: str | Path,
    text: str = "text",
    label: str = "label",
    test: str | Path | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> TextTask:
    """Return a task made of one's own labeled texts.

    Args:
        path: a ``.csv`` or ``.tsv`` file with a header row, or a ``.jsonl`` file of one object a line.
        text: the column (or JSON key) that holds the text.
        label: the column that holds the class: a string, an integer or a boolean.
        test: a second such file to test on; None holds out rows of the first.
        n_train: how many rows to train on, None for all.
        n_test: how many to test on; None: all of ``test``, or a fifth of the texts of ``path``.
        seed: decides which rows are held out, and the order.
        encoding: of the files; a byte-order mark is accepted.

    Raises:
        ConfigError: a file or column that is not there, a file type that is not read, or more rows wanted than given.
        FormatError: undecodable bytes, a row with too few or too many fields, bad JSON, an empty text or label, only
            one class, or a class for every row. The message names the line.
    """
    path = Path(path).expanduser()
    rows = _labeled(path, text, label, encoding)
    classes = class_names(row.label for row in rows)
    if test is None:
        train, held_out = split(rows, n_test, seed, path.stem)
    else:
        train, held_out = rows, take(_known(Path(test).expanduser(), text, label, encoding, classes), n_test, "n_test")
    return TextTask(
        name=path.stem,
        classes=classes,
        train=to_texts(take(train, n_train, "n_train"), classes),
        test=to_texts(held_out, classes),
        license="the user's own data",
        source=path.name,
    )


def _labeled(path: Path, text: str, label: str, encoding: str) -> list[_Line]:
    rows = list(_rows(path, text, label, encoding))
    if not rows:
        raise FormatError(f"{path.name} holds no rows" + ("" if path.suffix in _JSON else " after its header"))
    classes = {row.label for row in rows}
    span = f"{path.name}, lines {rows[0].number} to {rows[-1].number}"
    if len(classes) == 1:
        raise FormatError(f"{span}: every row has the {label} {rows[0].label!r}; a task needs at least two classes")
    if len(classes) == len(rows) and len(rows) > 2:
        raise FormatError(f"{span}: every row has a {label} of its own; is {label!r} the column of the classes?")
    return rows


def _known(path: Path, text: str, label: str, encoding: str, classes: tuple[str, ...]) -> list[_Line]:
    rows = list(_rows(path, text, label, encoding))
    if not rows:
        raise FormatError(f"{path.name} holds no rows to test on")
    for row in rows:
        if row.label not in classes:
            raise FormatError(
                f"{path.name}, line {row.number}: the {label} {row.label!r} does not occur in the training rows"
                f"{did_you_mean(row.label, classes)}"
            )
    return rows


def _rows(path: Path, text: str, label: str, encoding: str) -> Iterator[_Line]:
    content = _decode(path, encoding)
    lines = _json_lines(path, content) if path.suffix.lower() in _JSON else _delimited_lines(path, content)
    for number, fields in lines:
        where = f"{path.name}, line {number}"
        yield _Line(_text(fields, text, where), _label(fields, label, where), number)


def _decode(path: Path, encoding: str) -> str:
    if path.suffix.lower() not in (*_DELIMITER, *_JSON):
        raise ConfigError(f"{path.name}: only {', '.join((*_DELIMITER, *_JSON))} files are read, by their suffix")
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
    if twice := sorted({name for name in header if header.count(name) > 1}):
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
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path.name}, line {number}: not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise FormatError(f"{path.name}, line {number}: expected a JSON object, found {type(fields).__name__}")
        yield number, fields


def _field(fields: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in fields:
        shown = ", ".join(list(fields)[:_SHOWN]) + (", ..." if len(fields) > _SHOWN else "")
        raise ConfigError(f"{where}: no column {column!r}; there are: {shown}{did_you_mean(column, fields)}")
    return fields[column]


def _text(fields: Mapping[str, Any], column: str, where: str) -> str:
    value = _field(fields, column, where)
    if not isinstance(value, str):
        raise FormatError(f"{where}: {column!r} must be a string, found {type(value).__name__}")
    if not value.strip():
        raise FormatError(f"{where}: {column!r} is empty")
    return value


def _label(fields: Mapping[str, Any], column: str, where: str) -> str:
    value = _field(fields, column, where)
    if not isinstance(value, str | int):
        raise FormatError(f"{where}: {column!r} must be a string, integer or boolean, found {type(value).__name__}")
    if not str(value).strip():
        raise FormatError(f"{where}: {column!r} is empty")
    return str(value).strip()
