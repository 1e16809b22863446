"""A task of one's own pictures: a fifth of each class held out, nothing on both sides, every class known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dtheta.data.own_images import Table, load_images
from dtheta.errors import ConfigError, FormatError

Image = pytest.importorskip("PIL.Image")
EACH = {"cat": 10, "dog": 5, "eel": 2}


def save(folder: Path, name: str, i: int, color: int) -> Path:
    path = folder / name / f"{i:02}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), color).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    color = iter(range(1, 200))
    for name, many in EACH.items():
        for i in range(many):
            save(tmp_path / "pets", name, i, next(color))
    return tmp_path / "pets"


def shades(images) -> set[int]:
    return set(images.images[:, 0, 0, 0].tolist())


def test_a_fifth_of_each_class_is_held_out(folder: Path) -> None:
    task = load_images(folder, 4)
    assert (task.name, task.classes) == ("pets", ("cat", "dog", "eel"))
    assert task.test.labels.bincount().tolist() == [2, 1, 1]
    assert task.train.labels.bincount().tolist() == [8, 4, 1]
    assert shades(task.train) | shades(task.test) == set(range(1, 18)) and not shades(task.train) & shades(task.test)
    again, other = load_images(folder, 4), load_images(folder, 4, seed=1)
    assert torch.equal(task.train.images, again.train.images) and shades(other.test) != shades(task.test)


def test_copies_of_a_picture_stay_on_one_side(folder: Path) -> None:
    for i in range(20, 26):
        save(folder, "cat", i, 1)
    task = load_images(folder, 4)
    assert not shades(task.train) & shades(task.test)


def test_fewer_are_drawn(folder: Path) -> None:
    task = load_images(folder, 4, n_train=3, n_test=2)
    assert (len(task.train), len(task.test)) == (3, 2)
    assert shades(load_images(folder, 4, n_train=3).test) == shades(load_images(folder, 4).test)
    with pytest.raises(ConfigError, match="n_train=99"):
        load_images(folder, 4, n_train=99)


def test_a_second_part_keeps_the_ids_of_the_first(folder: Path, tmp_path: Path) -> None:
    for name, color in (("eel", 210), ("dog", 220)):
        save(tmp_path / "more", name, 0, color)
    task = load_images(folder, 4, test=tmp_path / "more")
    assert len(task.train) == 17
    found = dict(zip(task.test.images[:, 0, 0, 0].tolist(), task.test.labels.tolist(), strict=True))
    assert found == {210: 2, 220: 1}
    save(tmp_path / "more", "eeel", 0, 230)
    with pytest.raises(FormatError, match=r"'eeel' has no pictures to train on.*did you mean 'eel'"):
        load_images(folder, 4, test=tmp_path / "more")


def test_a_picture_to_train_and_to_test_on_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="17 of the pictures in pets are in pets too"):
        load_images(folder, 4, test=folder)


def test_a_picture_in_two_classes_is_refused(folder: Path) -> None:
    save(folder, "dog", 30, 1)
    with pytest.raises(FormatError, match="'cat' and 'dog'"):
        load_images(folder, 4)


def test_a_class_of_one_picture_cannot_be_split(folder: Path) -> None:
    save(folder, "fox", 0, 250)
    with pytest.raises(FormatError, match="'fox' has a single picture"):
        load_images(folder, 4)


def test_a_table_has_columns_of_its_own(folder: Path) -> None:
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    table = folder / "all.csv"
    table.write_text("\n".join(["picture,kind", *rows]) + "\n")
    task = load_images(table, 4, Table("picture", "kind"))
    assert task.classes == ("cat", "dog", "eel") and len(task.train) + len(task.test) == 17
