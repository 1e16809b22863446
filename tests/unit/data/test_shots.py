"""Few shots: so many of each class, nested, drawn by key; and what is held out of them."""

from __future__ import annotations

import pytest
import torch

from dtheta.data.images import Images
from dtheta.data.shots import few_shot, hold_out
from dtheta.errors import ConfigError


@pytest.fixture
def images():
    """20 images of three classes, 9, 6 and 5 of them; each shows its number."""
    labels = torch.tensor([0] * 9 + [1] * 6 + [2] * 5)
    return Images(torch.arange(20, dtype=torch.uint8).reshape(-1, 1, 1), labels)


def _shown(images):
    return images.images.flatten().tolist()


@pytest.mark.parametrize("shots", [1, 3, 5])
def test_so_many_different_images_of_each_class(images, shots):
    few = few_shot(images, shots, seed=0)
    assert few.labels.tolist() == [0] * shots + [1] * shots + [2] * shots
    assert len(set(_shown(few))) == 3 * shots
    assert all(images.labels[number] == label for number, label in zip(_shown(few), few.labels, strict=True))


def test_fewer_shots_are_a_part_of_more_and_seeds_differ(images):
    assert set(_shown(few_shot(images, 2, 7))) < set(_shown(few_shot(images, 5, 7)))
    assert _shown(few_shot(images, 2, 7)) == _shown(few_shot(images, 2, 7))
    assert len({tuple(_shown(few_shot(images, 2, seed))) for seed in range(8)}) > 4


def test_a_class_does_not_depend_on_the_others(images):
    fewer = images.take((images.labels < 2).nonzero().flatten())
    assert _shown(few_shot(fewer, 3, 0)) == _shown(few_shot(images, 3, 0))[:6]


@pytest.mark.parametrize(
    ("shots", "match"), [(0, "1 or more"), (1.5, "shots is 1.5"), (6, "class 2 has 5"), (10, "class 2 has 5")]
)
def test_too_many_or_no_shots(images, shots, match):
    with pytest.raises(ConfigError, match=match):
        few_shot(images, shots, 0)


def test_a_class_without_images(images):
    with pytest.raises(ConfigError, match="class 1 has 0"):
        few_shot(images.take((images.labels != 1).nonzero().flatten()), 1, 0)
    with pytest.raises(ConfigError, match="class 'd' has 0"):
        few_shot(images, 1, 0, ("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match="none at all"):
        few_shot(images.take(torch.tensor([], dtype=torch.int64)), 1, 0)


@pytest.mark.parametrize("count", [0, 1, 3, 7, 14, 17])
def test_what_is_held_out_is_taken_from_the_classes_in_turn(images, count):
    train, held = hold_out(images, count, 0)
    assert len(held) == count and sorted([*train.tolist(), *held.tolist()]) == list(range(20))
    assert train.tolist() == sorted(train.tolist()) and held.tolist() == sorted(held.tolist())
    left, given = (images.labels[places].bincount(minlength=3).tolist() for places in (train, held))
    assert min(left) >= 1
    turns = [0, 0, 0]  # by hand: round after round, each class that has more than one image left gives one
    while sum(turns) < count:
        for label, there in enumerate((9, 6, 5)):
            turns[label] += turns[label] < there - 1 and sum(turns) < count
    assert given == turns


def test_less_held_out_is_a_part_of_more_and_seeds_differ(images):
    found = {seed: [set(hold_out(images, count, seed)[1].tolist()) for count in (3, 9)] for seed in range(8)}
    assert all(few < many for few, many in found.values())
    assert len({tuple(few) for few, _ in found.values()}) > 4


@pytest.mark.parametrize("count", [-1, 18])
def test_more_held_out_than_leaves_each_class_an_image(images, count):
    with pytest.raises(ConfigError, match=f"validate={count} must lie between 0 and 17: there are 20"):
        hold_out(images, count, 0)
