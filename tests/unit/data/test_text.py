"""Splits: a pure function of the seed, without a text on both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.data.text import Row, Texts, TextTask, class_names, distinct, keyed_order, split, take, to_texts
from dtheta.errors import ConfigError, FormatError

rows = st.lists(st.builds(Row, st.sampled_from("abcdefgh"), st.sampled_from("xy")), min_size=1, max_size=40)


@given(rows, st.integers(0, 5), st.data())
def test_split_keeps_every_row_and_no_text_on_both_sides(rows, seed, data):
    count = len({row.text for row in rows})
    if count < 2:
        with pytest.raises(FormatError, match=r"every row holds the text '[a-h]'"):
            split(rows, 1, seed, "t")
        return
    n_test = data.draw(st.integers(1, count - 1))
    train, test = split(rows, n_test, seed, "t")
    assert not {row.text for row in train} & {row.text for row in test}
    assert len({row.text for row in test}) == n_test
    assert sorted(map(repr, train + test)) == sorted(map(repr, rows))
    assert (train, test) == split(rows, n_test, seed, "t")


def test_a_smaller_test_set_is_part_of_a_larger_one():
    rows = [Row(str(i), "x") for i in range(50)]
    small, large = (split(rows, count, 3, "t")[1] for count in (5, 20))
    assert {row.text for row in small} < {row.text for row in large}
    assert split(rows, 5, 4, "t")[1] != small


def test_a_fifth_is_held_out_by_default():
    train, test = split([Row(str(i), "x") for i in range(50)], None, 0, "t")
    assert (len(train), len(test)) == (40, 10)


@given(st.integers(0, 200), st.integers(0, 3))
def test_keyed_order_is_a_permutation(count, seed):
    order = keyed_order(count, seed, "n")
    assert sorted(order) == list(range(count))
    assert order == keyed_order(count, seed, "n")


def test_distinct_drops_repeats_and_contradictions():
    found = distinct([Row("a", "x"), Row("b", "x"), Row("a", "x"), Row("c", "y"), Row("b", "y")])
    assert found == [Row("a", "x"), Row("c", "y")]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["9" * 5000, "10"], ("10", "9" * 5000)),
    ],
    ids=["names", "integers", "both", "long"],
)
def test_class_names_are_ordered(labels, names):
    assert class_names(labels) == names


def test_a_number_of_rows_is_a_whole_one():
    rows = [Row(str(i), "x") for i in range(4)]
    with pytest.raises(ConfigError, match=r"n_train is 2\.5; expected a whole number"):
        take(rows, 2.5, "n_train")
    with pytest.raises(ConfigError, match=r"n_test is 2\.5; expected a whole number"):
        split(rows, 2.5, 0, "rows")


def test_take_refuses_more_than_there_is():
    assert take([Row("a", "x")], None, "n") == [Row("a", "x")]
    for count in (0, 2, -1):
        with pytest.raises(ConfigError, match=f"n_train={count}"):
            take([Row("a", "x")], count, "n_train")


def test_majority_is_the_share_of_the_largest_class():
    texts = to_texts([Row("a", "x"), Row("b", "y"), Row("c", "y"), Row("d", "y")], ("x", "y"))
    assert texts == Texts(("a", "b", "c", "d"), (0, 1, 1, 1))
    assert TextTask("t", ("x", "y"), texts, texts, "", "").majority == 0.75
