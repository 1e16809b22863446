"""``load_table``: one's own labeled texts from a CSV, TSV or JSONL file, with errors that name the line.

Nothing is skipped or repaired: a row that cannot be meant stops the reading. Duplicates are kept, and all rows with one
text land on the same side of the split. A text that is in the file to train on and in the one to test on, or a class
without a row to train on, is refused too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dtheta.core.paths import expanded
from dtheta.data.lines import has_header, label_field, numbered_lines, text_field
from dtheta.data.text import (
    Row,
    TextTask,
    check_apart,
    check_covered,
    class_names,
    shuffled,
    split,
    take,
    to_texts,
)
from dtheta.errors import FormatError, did_you_mean


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
        seed: decides which rows are held out or drawn, and the order.
        encoding: of the files; a byte-order mark is accepted.

    Raises:
        ConfigError: a file or column that is not there, a file type that is not read, or more rows wanted than given.
        FormatError: undecodable bytes, a row with too few or too many fields, bad JSON, an empty text or label, only
            one class, a class for every row or without a row to train on, only one text, or a text that is in both
            files. The message names the line.
    """
    path = expanded(path)
    rows = _labeled(path, text, label, encoding)
    classes = class_names(row.label for row in rows)
    if test is None:
        train, held_out = split(rows, n_test, seed, path.stem)
    else:
        measured = _known(expanded(test), text, label, encoding, classes)
        check_apart(_first_lines(rows), str(path), _first_lines(measured), str(test))
        train = shuffled(rows, seed, f"train/{path.stem}")  # a table is often sorted by class
        held_out = take(shuffled(measured, seed, f"test/{path.stem}"), n_test, "n_test")
    train = take(train, n_train, "n_train")
    check_covered(train, classes, path.name)
    return TextTask(
        name=path.stem,
        classes=classes,
        train=to_texts(train, classes),
        test=to_texts(held_out, classes),
        license="the user's own data",
        source=path.name,
    )


def _first_lines(rows: Sequence[_Line]) -> dict[str, int]:
    """Return the distinct texts in order, each with the number of its first line."""
    found: dict[str, int] = {}
    for row in rows:
        found.setdefault(row.text, row.number)
    return found


def _labeled(path: Path, text: str, label: str, encoding: str) -> list[_Line]:
    rows = list(_rows(path, text, label, encoding))
    if not rows:
        raise FormatError(f"{path.name} holds no rows" + (" after its header" if has_header(path) else ""))
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
    for number, fields in numbered_lines(path, encoding):
        where = f"{path.name}, line {number}"
        yield _Line(text_field(fields, text, where), label_field(fields, label, where), number)
