"""Files of several parties as one task: whose rows are whose, the classes of all, and one test part for all.

Parties are the files, by name. A party may lack classes; the classes of the task are those of all files together. Test
rows are held out of all files at once, so rows that are alike, also in two files, land on the same side; or they are a
file of their own, whose rows stand in no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dtheta.core.paths import expanded
from dtheta.data.lines import label_field, numbered_lines, text_field
from dtheta.data.tabular import Table, TabularTask, read_rows
from dtheta.data.text import Row, TextTask, check_covered, class_names, shuffled, split, take, to_texts
from dtheta.errors import ConfigError, FormatError, did_you_mean


@dataclass(frozen=True)
class Parties:
    """A task whose training rows belong to parties.

    Attributes:
        task: Of all parties together.
        parts: Rows of ``task.train`` by party, in ascending order.
    """

    task: TabularTask | TextTask
    parts: dict[str, list[int]]


@dataclass(frozen=True)
class _Held(Row):
    """A row of a party: ``text`` is the text, or stands for the numbers."""

    party: str
    number: int  # in its file, counted from 1
    numbers: tuple[float, ...] = ()


def load_parties(
    paths: Sequence[str | Path],
    text: str | None = None,
    label: str = "label",
    test: str | Path | None = None,
    n_test: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> Parties:
    """Return the task of some files, each the data of one party.

    Args:
        paths: ``.csv``, ``.tsv`` or ``.jsonl`` files.
        text: The column of the texts; None where every column but the classes holds numbers.
        label: The column of the classes.
        test: A file to test on; None holds out rows of all files.
        n_test: How many distinct rows to test on; all of ``test``, or a fifth, if None.
        seed: Decides which rows are held out.
        encoding: Of the files.

    Raises:
        ConfigError: For no file, two of one name, a file or column that is not there, or more rows wanted than there
            are.
        FormatError: For a damaged file, other columns than in the first, a single class, a row that is in ``test`` too,
            a class of the test rows, or a party, without training rows.
    """
    files = [expanded(path) for path in paths]
    names = [file.stem for file in files]
    if not files or len(set(names)) < len(names):
        raise ConfigError(f"expected files of different names, one a party; found {', '.join(names) or 'none'}")
    rows, columns = _read(files, text, label, encoding)
    classes = class_names(row.label for row in rows)
    name = " + ".join(names)
    _require_one_spelling(rows, label)
    if len(classes) < 2:
        raise FormatError(f"{name}: every row has the {label} {rows[0].label!r}; a task needs at least two classes")
    train, measured = _divided(rows, columns, classes, name, text, label, test, n_test, seed, encoding)
    check_covered(train, classes, name)
    parts = {party: [i for i, row in enumerate(train) if row.party == party] for party in names}
    for party, part in parts.items():
        if not part:
            raise FormatError(f"{party}: all its rows were held out to test on; give a smaller n_test or another seed")
    return Parties(_task(name, classes, columns, train, measured), parts)


def _require_one_spelling(rows: Sequence[_Held], label: str) -> None:
    """Raise where two parties write one number in two ways, as 1 and 1.0: these would be two classes.

    Raises:
        FormatError: Naming both rows.
    """
    seen: dict[float, _Held] = {}
    for row in rows:
        try:
            value = float(row.label)
        except ValueError:
            continue
        first = seen.setdefault(value, row)
        if first.label != row.label:
            raise FormatError(
                f"{row.party}, row {row.number}: the {label} is {row.label!r}, and in {first.party}, row "
                f"{first.number}, it is {first.label!r}; write one class in one way"
            )


def _task(
    name: str, classes: tuple[str, ...], columns: tuple[str, ...], train: list[_Held], test: list[_Held]
) -> TabularTask | TextTask:
    rights = "the user's own data"
    if not columns:
        return TextTask(name, classes, to_texts(train, classes), to_texts(test, classes), rights, name)
    return TabularTask(name, classes, columns, _table(train, classes), _table(test, classes), rights, name)


def _table(rows: Sequence[_Held], classes: Sequence[str]) -> Table:
    ids = {name: index for index, name in enumerate(classes)}
    return Table(torch.tensor([row.numbers for row in rows]), torch.tensor([ids[row.label] for row in rows]))


def _divided(
    rows: list[_Held], columns: tuple[str, ...], classes: tuple[str, ...], name: str, text: str | None, label: str,
    test: str | Path | None, n_test: int | None, seed: int, encoding: str,
) -> tuple[list[_Held], list[_Held]]:  # fmt: skip
    if test is None:
        return split(rows, n_test, seed, name)  # type: ignore[return-value]  # the rows that it is given
    file = expanded(test)
    measured, _ = _read([file], text, label, encoding, columns)
    _check(rows, measured, classes, label, file)
    ordered: list[_Held] = shuffled(rows, seed, f"train/{name}")  # type: ignore[assignment]
    return ordered, take(shuffled(measured, seed, f"test/{name}"), n_test, "n_test")  # type: ignore[return-value]


def _check(rows: Sequence[_Held], measured: Sequence[_Held], classes: Sequence[str], label: str, file: Path) -> None:
    seen = {row.text: row for row in rows}
    for row in measured:
        where = f"{file.name}, row {row.number}"
        if row.label not in classes:
            near = did_you_mean(row.label, classes)
            raise FormatError(f"{where}: the {label} {row.label!r} does not occur in the training rows{near}")
        if row.text in seen:
            other = seen[row.text]
            raise FormatError(
                f"{where} stands in {other.party}, row {other.number}, too; a score on rows that were trained on "
                "measures nothing. Remove it from one of the two files"
            )


def _read(
    files: Sequence[Path], text: str | None, label: str, encoding: str, columns: tuple[str, ...] = ()
) -> tuple[list[_Held], tuple[str, ...]]:
    """Return the rows of all files, and the columns of numbers: as given, or in the order of the first file."""
    if text is not None:
        return [row for file in files for row in _texts(file, text, label, encoding)], ()
    rows = list[_Held]()
    for file in files:
        x, labels, names = read_rows(file, label, encoding)
        columns = columns or names
        if set(names) != set(columns):
            of = "" if file is files[0] else f"those of {files[0].name}: "
            raise FormatError(f"{file.name} has the columns {', '.join(names)}; expected {of}{', '.join(columns)}")
        x = x[:, [names.index(name) for name in columns]]
        for i, (values, one) in enumerate(zip(x, labels, strict=True), 1):
            rows.append(_Held(values.numpy().tobytes().hex(), one, file.stem, i, tuple(values.tolist())))
    return rows, columns


def _texts(file: Path, text: str, label: str, encoding: str) -> list[_Held]:
    found = []
    for i, (number, fields) in enumerate(numbered_lines(file, encoding), 1):
        where = f"{file.name}, line {number}"
        found.append(_Held(text_field(fields, text, where), label_field(fields, label, where), file.stem, i))
    if not found:
        raise FormatError(f"{file.name} holds no rows")
    return found
