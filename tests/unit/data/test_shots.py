"""Few shots: so many of each class, nested, drawn by key."""

from __future__ import annotations

import pytest
import torch

from dtheta.data.images import Images
from dtheta.data.shots import few_shot
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


@pytest.mark.parametrize(("shots", "match"), [(0, "at least 1"), (6, "class 2 has 5"), (10, "class 2 has 5")])
def test_too_many_or_no_shots(images, shots, match):
    with pytest.raises(ConfigError, match=match):
        few_shot(images, shots, 0)


def test_a_class_without_images(images):
    with pytest.raises(ConfigError, match="class 1 has 0"):
        few_shot(images.take((images.labels != 1).nonzero().flatten()), 1, 0)
    with pytest.raises(ConfigError, match="none at all"):
        few_shot(images.take(torch.tensor([], dtype=torch.int64)), 1, 0)
