"""Unlabeled texts of one's own: columns, splits, duplicates, errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtheta.data.corpus import columns, load_corpus, table_column
from dtheta.errors import ConfigError, FormatError


def test_columns_and_splits_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"body": "one", "stars": 3}\n{"body": "two", "stars": 4}\n{"body": "two", "stars": 5}\n')
    assert columns(table) == ["body", "stars"]
    assert table_column(table, "stars") == ["3", "4", "5"]
    corpus = load_corpus(table, "body", n_test=1)
    assert sorted(corpus.train + corpus.test) == ["one", "two"]
    with pytest.raises(ConfigError, match="no column 'txt'"):
        load_corpus(table, "txt")
    with pytest.raises(ConfigError, match="n_test"):
        load_corpus(table, "body", n_test=3)
    empty = tmp_path / "empty.csv"
    empty.write_text("text\n")
    with pytest.raises(FormatError, match="holds no rows"):
        columns(empty)
