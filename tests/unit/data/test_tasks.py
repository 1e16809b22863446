"""The packaged text tasks, read for real: counts, classes, no leak from training to test."""

from __future__ import annotations

import pytest

from dtheta.data.sources import fetch
from dtheta.data.tasks import TASKS, _tab, load_task
from dtheta.errors import ConfigError, FormatError, MissingExtra


def _load(name, **options):
    try:
        return load_task(name, **options)
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "texts", "classes"),
    [("bbc", 2127, 5), ("sentiment", 22805, 2), ("tweets", 6434, 2), ("books", 140, 2)],
)
def test_tasks_without_an_official_test_set(name, texts, classes):
    task = _load(name)
    assert len(task.train) + len(task.test) == texts
    assert len(task.test) == round(0.2 * texts)
    _check(task, classes)


@pytest.mark.parametrize(("name", "n_test", "classes"), [("r8", 2176, 8), ("r52", 2553, 52), ("20news", 7521, 20)])
def test_tasks_with_an_official_test_set(name, n_test, classes):
    task = _load(name)
    assert len(task.test) == n_test
    _check(task, classes)


def _check(task, classes):
    assert len(task.classes) == classes
    assert set(task.train.labels) == set(range(classes))
    assert not set(task.train.texts) & set(task.test.texts)
    assert len(set(task.train.texts)) == len(task.train)
    assert all(text.strip() for text in task.train.texts)
    assert task.license
    assert task.source


def test_labels_mean_what_they_say():
    task = _load("bbc")
    assert task.classes == ("business", "entertainment", "politics", "sports", "tech")
    sports = [text for text, label in zip(task.train.texts, task.train.labels, strict=True) if label == 3]
    politics = [text for text, label in zip(task.train.texts, task.train.labels, strict=True) if label == 2]
    share = [sum("match" in text for text in texts) / len(texts) for texts in (sports, politics)]
    assert share[0] > 4 * share[1]
    assert any("\u00a3" in text for text in task.train.texts)  # the pound sign: latin-1 was read as latin-1


def test_the_draw_depends_on_the_seed_only():
    small, large = (_load("r8", n_train=count, n_test=100, seed=1) for count in (50, 500))
    assert small.test == large.test
    assert large.train.texts[:50] == small.train.texts
    assert _load("r8", n_train=50, n_test=100, seed=2).train != small.train
    assert _load("r8", n_train=50, n_test=100, seed=1) == small


def test_errors_teach():
    with pytest.raises(ConfigError, match="did you mean 'sentiment"):
        load_task("sentimnt")
    with pytest.raises(ConfigError, match=r"n_train=9999.*1702"):
        _load("bbc", n_train=9999)
    with pytest.raises(ConfigError, match="n_test=0"):
        _load("bbc", n_test=0)


def test_a_tab_file_without_the_column():
    try:
        folder = fetch(TASKS["books"].package.name)
    except MissingExtra as error:
        pytest.skip(str(error))
    with pytest.raises(FormatError, match=r"no column 'Nope'; it has Category, Text"):
        list(_tab("book-excerpts", text="Nope")(folder))
