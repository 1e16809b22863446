"""Accuracies of tasks that stand side by side, against plain slices."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score import Aggregate, metric_interval
from dtheta.score.tasks import SliceCorrect, TaskAccuracy, foreign, task_of

SIZES = (2, 3, 4)
STARTS = (0, 2, 5)


def logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator(0, "tasks")
    return torch.randn(60, 9, generator=draws), torch.randint(0, 9, (60,), generator=draws)


def plain(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    found = []
    for start, size in zip(STARTS, SIZES, strict=True):
        own = [n for n in range(len(labels)) if start <= int(labels[n]) < start + size]
        right = [start + int(logits[n, start : start + size].argmax()) == int(labels[n]) for n in own]
        found.append(sum(right) / len(right))
    return found


def test_labels_tell_the_task() -> None:
    assert task_of(torch.arange(9), SIZES).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert foreign(torch.tensor([4]), SIZES)[0].tolist() == [True, True, False, False, False, True, True, True, True]


def test_accuracy_is_the_mean_of_slices_however_it_is_streamed() -> None:
    logits, labels = logits_and_labels()
    wanted = plain(logits, labels)
    both = Aggregate((TaskAccuracy(SIZES), TaskAccuracy(SIZES, task=1, name="second")))
    for part in (slice(0, 7), slice(7, 60)):
        both = both.add(logits[part], labels[part])
    assert both.results() == {
        "task_accuracy": pytest.approx(sum(wanted) / 3),
        "second": pytest.approx(wanted[1]),
    }
    (mean,) = both.means.values()
    assert TaskAccuracy(SIZES).by_task(mean.value).tolist() == pytest.approx(wanted)


def test_a_large_task_weighs_no_more_than_a_small_one() -> None:
    logits = torch.zeros(11, 4)
    logits[:, 0] = 1.0
    labels = torch.tensor([0] * 10 + [3])  # ten right of the first task, one wrong of the second
    aggregate = Aggregate((TaskAccuracy((2, 2)),)).add(logits, labels)
    assert aggregate.results()["task_accuracy"] == 0.5


def test_a_task_without_examples_does_not_count_in_the_mean() -> None:
    logits = torch.eye(4)[:2]
    assert Aggregate((TaskAccuracy((2, 2)),)).add(logits, torch.tensor([0, 1])).results()["task_accuracy"] == 1.0


def test_it_has_intervals_as_any_metric() -> None:
    logits, labels = logits_and_labels()
    found = metric_interval(TaskAccuracy(SIZES), logits, labels, resamples=100)
    assert found.low < found.estimate < found.high


def test_bad_input_is_refused() -> None:
    logits, labels = logits_and_labels()
    with pytest.raises(ShapeMismatch, match="logits of 8 classes; the tasks have 9"):
        SliceCorrect(SIZES)(logits[:, :8], labels.clamp(max=7))
    with pytest.raises(ConfigError, match=r"integers 0\.\.8"):
        SliceCorrect(SIZES)(logits, labels + 1)
    with pytest.raises(ConfigError, match="task=3"):
        TaskAccuracy(SIZES, task=3)
