"""``load_corpus``: one's own texts without labels, from a CSV, TSV or JSONL file, for training a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dtheta.data.lines import label_field, numbered_lines, text_field
from dtheta.data.text import TEST_FRACTION, keyed_order
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
    rows = _texts(path, text, encoding)
    if test is not None:
        held_out = [t for t in _texts(test, text, encoding) if t not in set(rows)]
        train = [rows[i] for i in keyed_order(len(rows), seed, f"train/{path.stem}")]
    else:
        order = keyed_order(len(rows), seed, f"split/{path.stem}")
        cut = n_test if n_test is not None else max(1, round(TEST_FRACTION * len(rows)))
        if not 1 <= cut < len(rows):
            raise ConfigError(
                f"n_test={cut} must lie between 1 and {len(rows) - 1}: there are {len(rows)} distinct texts"
            )
        held_out, train = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    return Corpus(path.stem, _first(train, n_train, "n_train"), _first(held_out, n_test, "n_test"))


def _texts(path: Path, text: str, encoding: str) -> list[str]:
    lines = numbered_lines(path, encoding)
    found = (text_field(fields, text, f"{path.name}, line {number}") for number, fields in lines)
    return list(dict.fromkeys(found))


def _first(texts: Sequence[str], count: int | None, what: str) -> tuple[str, ...]:
    if not texts or (count is not None and not 1 <= count <= len(texts)):
        raise ConfigError(f"{what}={count} must lie between 1 and {len(texts)}, the number of distinct texts there is")
    return tuple(texts[:count])
