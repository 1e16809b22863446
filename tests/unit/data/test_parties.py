"""Files of parties: whose rows are whose, and a test part that no party trains on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from dtheta.data.parties import load_parties
from dtheta.data.tabular import TabularTask
from dtheta.data.text import TextTask
from dtheta.errors import ConfigError, FormatError

Rows = list[tuple[Any, ...]]


def write(path: Path, rows: Rows, header: str = "a,b,label") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def numbers(start: int, count: int, label: str | None = None) -> Rows:
    return [(i, i / 4, label or "xy"[i % 2]) for i in range(start, start + count)]


def test_rows_keep_their_party_and_the_test_part_is_nobodys(tmp_path: Path) -> None:
    files = [write(tmp_path / "one.csv", numbers(0, 30)), write(tmp_path / "two.csv", numbers(100, 20, "y"))]
    found = load_parties(files)
    task = found.task
    assert isinstance(task, TabularTask) and task.classes == ("x", "y") and task.features == ("a", "b")
    assert len(task.test) == 10 and len(task.train) == 40
    assert sorted(i for part in found.parts.values() for i in part) == list(range(40))
    for party, part in found.parts.items():
        values = task.train.x[part, 0]
        assert bool(((values < 100) == (party == "one")).all())
    held = {tuple(row) for row in task.test.x.tolist()}
    assert not held & {tuple(row) for row in task.train.x.tolist()}
    again = load_parties(files, seed=0).task
    assert again.train.x.equal(task.train.x) and not load_parties(files, seed=1).task.test.x.equal(task.test.x)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", numbers(0, 30))
    two = write(tmp_path / "two.csv", [(b, label, a) for a, b, label in numbers(100, 20)], "b,label,a")
    test = write(tmp_path / "t.csv", [(label, b, a) for a, b, label in numbers(200, 8)], "label,b,a")
    task = load_parties([one, two], test=test).task
    assert isinstance(task, TabularTask) and task.features == ("a", "b")
    for part in (task.train, task.test):
        assert bool((part.x[:, 0] / 4 == part.x[:, 1]).all())
    with pytest.raises(FormatError, match=r"one\.csv, row 1 stands in two, row 1"):
        load_parties([write(tmp_path / "two.csv", [(0.0, "x", 0), (9, "y", 1)], "b,label,a")], test=one)


def test_one_class_written_in_two_ways_is_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / "one.csv", [(i, i, i % 2) for i in range(20)])]
    files.append(write(tmp_path / "two.csv", [(i, i, float(i % 2)) for i in range(20, 40)]))
    with pytest.raises(FormatError, match=r"two, row 1: the label is '0\.0', and in one, row 1, it is '0'"):
        load_parties(files)


def test_equal_rows_of_two_parties_land_on_one_side(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.csv", numbers(0, 30)) for name in ("one", "two")]
    task = load_parties(files, n_test=6).task
    assert len(task.test) == 12 and len(task.train) == 48


def test_texts(tmp_path: Path) -> None:
    rows = [(f"text {i}", "xy"[i % 2]) for i in range(40)]
    files = [write(tmp_path / "one.csv", rows[:25], "t,c"), write(tmp_path / "two.csv", rows[25:], "t,c")]
    found = load_parties(files, "t", "c")
    assert isinstance(found.task, TextTask) and len(found.task.test) == 8
    for i in found.parts["two"]:
        assert found.task.train.texts[i] in {text for text, _ in rows[25:]}


def test_a_file_to_test_on(tmp_path: Path) -> None:
    files = [write(tmp_path / "one.csv", numbers(0, 10)), write(tmp_path / "two.csv", numbers(10, 10))]
    measured = write(tmp_path / "test.csv", numbers(50, 6))
    found = load_parties(files, test=measured)
    assert len(found.task.train) == 20 and sorted(found.task.test.x[:, 0].tolist()) == list(range(50, 56))
    assert {k: len(v) for k, v in found.parts.items()} == {"one": 10, "two": 10}


@pytest.mark.parametrize(
    ("two", "test", "error", "said"),
    [
        (numbers(10, 5), numbers(12, 2), FormatError, "test.csv, row 1 stands in two, row 3, too"),
        (numbers(10, 5), [(90, 1, "z")], FormatError, "'z' does not occur in the training rows"),
        ([], None, FormatError, "no column of numbers"),
        ([(1, "much", "x")], None, FormatError, "expected a finite number"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, two: Rows, test: Rows | None, error: type[Exception], said: str
) -> None:
    files = [write(tmp_path / "one.csv", numbers(0, 10)), write(tmp_path / "two.csv", two)]
    measured = None if test is None else write(tmp_path / "test.csv", test)
    with pytest.raises(error, match=said):
        load_parties(files, test=measured)


def test_names_columns_and_classes(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", numbers(0, 10, "x"))
    with pytest.raises(FormatError, match="at least two classes"):
        load_parties([one, write(tmp_path / "two.csv", numbers(20, 5, "x"))])
    with pytest.raises(FormatError, match=r"expected those of one\.csv"):
        load_parties([one, write(tmp_path / "two.csv", numbers(20, 5), "a,c,label")])
    with pytest.raises(ConfigError, match="different names"):
        load_parties([one, one])
    with pytest.raises(FormatError, match="holds no rows"):
        load_parties([write(tmp_path / "three.csv", [], "t,label"), one], "t")


def test_a_party_whose_rows_are_all_held_out_is_named(tmp_path: Path) -> None:
    files = [write(tmp_path / "big.csv", numbers(0, 30)), write(tmp_path / "small.csv", numbers(50, 1))]
    assert len(load_parties(files, n_test=15, seed=3).parts["small"]) == 1
    with pytest.raises(FormatError, match="small: all its rows were held out"):
        load_parties(files, n_test=15, seed=0)
