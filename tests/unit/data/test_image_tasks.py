"""The image tasks, read for real: their sizes, labels that fit the images, and parts that no seed changes."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from dtheta.data.image_tasks import FASHION_CLASSES, IMAGE_TASKS, load_image_task
from dtheta.data.images import contents
from dtheta.errors import ConfigError, MissingExtra

SIZES = {
    "fashion": (60000, 10000, (28, 28), 10),
    "mnist": (4000, 1000, (28, 28), 10),
    "digits": (1438, 359, (8, 8), 10),
    "textiles": (1600, 400, (250, 250), 3),
    "emoji-google": (1619, 287, (32, 32, 3), 9),
    "emoji-twitter": (1619, 287, (32, 32, 3), 9),
}


def _load(name, *arguments, **options):
    try:
        return load_image_task(name, *arguments, **options)
    except MissingExtra as error:
        pytest.skip(str(error))


def test_the_names_are_those_of_the_table():
    assert set(IMAGE_TASKS) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_whole_tasks(name):
    task = _load(name)
    train, test, shape, classes = SIZES[name]
    assert (len(task.train), len(task.test), task.train.images.shape[1:], len(task.classes)) == (
        train, test, shape, classes,
    )  # fmt: skip
    for part in (task.train, task.test):
        assert part.images.dtype == torch.uint8 and part.images.shape[1:] == shape
        assert part.labels.unique().tolist() == list(range(classes))
        assert part.images.max() > 200
    assert not set(contents(task.train.images)) & set(contents(task.test.images))
    assert task.template.count("{}") == 1 and task.license and task.source


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_parts_are_fixed_and_draws_keyed(name):
    first, again, other = (_load(name, 50, 20, seed=seed) for seed in (1, 1, 2))
    assert contents(first.train.images) == contents(again.train.images)
    assert contents(first.test.images) != contents(other.test.images)
    whole = _load(name)
    assert set(contents(first.test.images)) | set(contents(other.test.images)) <= set(contents(whole.test.images))
    assert contents(_load(name, 5, 20, seed=1).test.images) == contents(first.test.images)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_labels_fit_the_digits(name):
    """The nearest class mean tells handwritten digits apart; wrong labels would give one in ten."""
    task = _load(name)
    train, test = (part.images.flatten(1).float() for part in (task.train, task.test))
    means = torch.stack([train[task.train.labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(test, means).argmin(1) == task.test.labels).float().mean() > 0.75
    assert task.template.format(task.classes[3]) == "a photo of the number: 3."


def test_fashion_mnist(fashion_mnist_small):
    task = fashion_mnist_small
    assert task.classes == FASHION_CLASSES
    assert task.train.images.shape == task.test.images.shape == (256, 28, 28)
    brightness = {
        name: task.train.images[task.train.labels == index].float().mean() for index, name in enumerate(task.classes)
    }
    assert brightness["sandal"] < brightness["coat"]  # a sandal covers little of its picture: labels fit the images


def test_textiles_with_a_local_defect_differ_from_those_without():
    """A simulated defect is a patch of other statistics: the largest step between neighbors is larger there."""
    task = _load("textiles", 300)
    step = (task.train.images[:, :, 1:].int() - task.train.images[:, :, :-1].int()).abs().float()
    highest = step.flatten(1).amax(1)
    mean = {name: highest[task.train.labels == label].mean() for label, name in enumerate(task.classes)}
    assert mean["textile with a local defect"] > mean["textile without defects"]


def test_what_cannot_be_meant():
    with pytest.raises(ConfigError, match=r"no image task 'fashon'; .*did you mean 'fashion'"):
        load_image_task("fashon")
    with pytest.raises(ConfigError, match=r"n_train=9999 must lie between 1 and 1438"):
        _load("digits", 9999)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install scikit-learn"):
        load_image_task("digits")
