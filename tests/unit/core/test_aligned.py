"""Tables as text: columns line up, numbers on the right."""

from __future__ import annotations

import pytest

from dtheta.core.aligned import aligned


def test_columns_line_up() -> None:
    found = aligned(("name", "n"), [("a", "1"), ("longer", "200")])
    assert found == ["name      n", "a         1", "longer  200"]


def test_columns_of_words_have_no_spaces_at_their_ends() -> None:
    found = aligned(("n", "what"), [("10", "a"), ("1", "word")], numeric=(True, False))
    assert found == [" n  what", "10  a", " 1  word"]


def test_a_table_without_rows_is_its_headings() -> None:
    assert aligned(("a", "b"), []) == ["a  b"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        aligned(("a", "b"), [("1",)])
