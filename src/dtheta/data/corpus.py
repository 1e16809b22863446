"""``load_corpus``: one's own texts without labels, from a CSV, TSV or JSONL file, for training a language model.

Duplicates within a file count once; a text that is in the file to train on and in the one to test on is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dtheta.data.lines import label_field, numbered_lines, text_field
from dtheta.data.text import check_apart, held_out_count, keyed_order
from dtheta.errors import ConfigError, FormatError


@dataclass(frozen=True)
class Corpus:
    """Unlabeled texts, cut into those to train on and those to measure on."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def columns(path: Path, encoding: str = "utf-8") -> list[str]:
    """Return the column names of a table (CSV, TSV), or the keys of a JSONL file's first object.

    Raises:
        ConfigError, FormatError: As ``load_table``.
    """
    for _, fields in numbered_lines(path, encoding):
        return list(fields)
    raise FormatError(f"{path.name} holds no rows")


def table_column(path: Path, column: str, encoding: str = "utf-8") -> list[str]:
    """Return one column of a table as texts, row by row.

    Raises:
        ConfigError, FormatError: As ``load_table``.
    """
    lines = numbered_lines(path, encoding)
    return [label_field(fields, column, f"{path.name}, line {number}") for number, fields in lines]


def load_corpus(
    path: Path,
    text: str = "text",
    test: Path | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> Corpus:
    """Return one's own unlabeled texts; arguments and errors are those of ``load_table``, duplicates count once."""
    lines = _first_lines(path, text, encoding)
    rows = list(lines)
    if test is not None:
        measured = _first_lines(test, text, encoding)
        check_apart(lines, str(path), measured, str(test))
        held_out = list(measured)
        train = [rows[i] for i in keyed_order(len(rows), seed, f"train/{path.stem}")]
    else:
        order = keyed_order(len(rows), seed, f"split/{path.stem}")
        cut = held_out_count(rows, n_test, path.name)
        held_out, train = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    return Corpus(path.stem, _first(train, n_train, "n_train"), _first(held_out, n_test, "n_test"))


def _first_lines(path: Path, text: str, encoding: str) -> dict[str, int]:
    """Return the distinct texts in order, each with the number of its first line."""
    found: dict[str, int] = {}
    for number, fields in numbered_lines(path, encoding):
        found.setdefault(text_field(fields, text, f"{path.name}, line {number}"), number)
    if not found:
        raise FormatError(f"{path.name} holds no rows")
    return found


def _first(texts: Sequence[str], count: int | None, what: str) -> tuple[str, ...]:
    if not texts or (count is not None and not 1 <= count <= len(texts)):
        raise ConfigError(f"{what}={count} must lie between 1 and {len(texts)}, the number of distinct texts there is")
    return tuple(texts[:count])
