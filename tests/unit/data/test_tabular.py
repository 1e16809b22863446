"""Tables: the packaged ones, one's own files, splits without leaks, and files that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dtheta.data.tabular import TABULAR_TASKS, load_tabular
from dtheta.errors import ConfigError, FormatError

SIZES = {"iris": (150, 4, 3), "wine": (178, 13, 3), "breast-cancer": (569, 30, 2), "digits": (1797, 64, 10)}


@pytest.mark.parametrize("name", TABULAR_TASKS)
def test_a_packaged_table_has_its_rows_columns_and_classes(name: str) -> None:
    task = load_tabular(name)
    rows, features, classes = SIZES[name]
    assert len(task.train) + len(task.test) == rows
    assert task.train.x.shape[1] == features == len(task.features)
    assert len(task.classes) == classes == len(task.train.labels.unique())
    assert task.train.x.dtype == torch.float32 and bool(torch.isfinite(task.train.x).all())


def test_tables_hold_what_scikit_learn_says() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    for name, load in (("iris", datasets.load_iris), ("wine", datasets.load_wine), ("digits", datasets.load_digits)):
        peer, task = load(), load_tabular(name)
        x = torch.cat([task.train.x, task.test.x]) * (16 if name == "digits" else 1)
        order = sorted(range(len(x)), key=lambda i: x[i].tolist())
        known = torch.tensor(peer.data, dtype=torch.float32)
        expected = sorted(range(len(known)), key=lambda i: known[i].tolist())
        assert torch.equal(x[order], known[expected])


def test_equal_rows_stay_on_one_side_and_the_seed_decides_which() -> None:
    task = load_tabular("iris")  # holds equal flowers
    train, test = ({tuple(row) for row in part.x.tolist()} for part in (task.train, task.test))
    assert not train & test and len(test) == 30  # a fifth of 149 distinct ones
    again, other = load_tabular("iris"), load_tabular("iris", seed=1)
    assert torch.equal(again.test.x, task.test.x) and not torch.equal(other.test.x[:20], task.test.x[:20])
    assert len(load_tabular("iris", n_test=40).test) >= 40


def test_standardized_rows_have_mean_0_and_deviation_1_on_the_training_part() -> None:
    task = load_tabular("wine").standardized()
    assert torch.allclose(task.train.x.mean(0), torch.zeros(13), atol=1e-5)
    assert torch.allclose(task.train.x.std(0, correction=0), torch.ones(13), atol=1e-5)
    raw = load_tabular("wine")
    mean, deviation = raw.train.x.mean(0), raw.train.x.std(0, correction=0)
    assert torch.allclose(task.test.x, (raw.test.x - mean) / deviation, atol=1e-4)


def test_a_constant_column_becomes_zero(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,label\n" + "".join(f"{i},3,{i % 2}\n" for i in range(10)))
    x = load_tabular(path).standardized().train.x
    assert torch.equal(x[:, 1], torch.zeros(len(x)))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("age,ill,dose\n" + "".join(f"{20 + i},{'yes' if i % 3 else 'no'},{i / 4}\n" for i in range(12)))
    task = load_tabular(path, "ill", n_test=3)
    assert task.features == ("age", "dose") and task.classes == ("no", "yes") and task.name == "visits"
    every = torch.cat([task.train.x, task.test.x])
    assert sorted(every[:, 0].tolist()) == [20.0 + i for i in range(12)]
    ids = torch.cat([task.train.labels, task.test.labels])
    assert all((label == 0) == ((age - 20) % 3 == 0) for age, label in zip(every[:, 0], ids, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,label\n1,x\n?,y\n", r"line 3: a is '\?'"),
        ("a,label\n1,x\nnan,y\n", "line 3: a is 'nan'"),
        ("a,label\n1,x\n1e300,y\n2,x\n", "beyond the numbers of float32"),
        ("a,label\n1,x\n2,x\n", "every row has the label 'x'"),
        ("a,label\n1,x\n1,y\n", "the same numbers"),
        ("label\nx\ny\n", "no column of numbers"),
    ],
)
def test_a_file_that_cannot_be_meant_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(FormatError, match=message):
        load_tabular(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'iris'"):
        load_tabular("irs")
    path = tmp_path / "t.csv"
    path.write_text("a,label\n1,x\n2,y\n3,x\n")
    with pytest.raises((ConfigError, FormatError), match="kind"):
        load_tabular(path, "kind")
    with pytest.raises(ConfigError, match="n_test=3"):
        load_tabular(path, n_test=3)
