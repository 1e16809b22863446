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


def test_a_test_file_of_its_own_shares_no_text(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.csv", tmp_path / "other.csv"
    mine.write_text("text\na\nb\nb\nc\n")
    other.write_text("text\nd\nd\ne\n")
    corpus = load_corpus(mine, test=other)
    assert (sorted(corpus.train), corpus.test) == (["a", "b", "c"], ("d", "e"))
    other.write_text("text\nd\nc\ne\n")
    with pytest.raises(FormatError, match=r"other\.csv, line 3: .*mine\.csv, line 5 too, as do 1 of the 3 texts"):
        load_corpus(mine, test=other)


def test_one_text_cannot_be_split(tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("text\na\na\n")
    with pytest.raises(FormatError, match="every row holds the text 'a'"):
        load_corpus(mine)
    mine.write_text("text\n")
    with pytest.raises(FormatError, match="holds no rows"):
        load_corpus(mine)
