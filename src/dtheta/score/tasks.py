"""Scores of several classification tasks whose classes stand side by side in one row of logits.

    correct_t = mean_n 1[task_n = t] 1[argmax over the slice of t of logits_n = target_n]
    count_t   = mean_n 1[task_n = t]
    accuracy  = mean over tasks of correct_t / count_t, or that of one task

A task's classes compete with each other only: at test time one knows which task an example is of.
Shapes: N examples, K classes of all tasks together, T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score.metric import Better
from dtheta.score.statistic import Statistic, require_classes, require_logits


def task_of(labels_N: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the task (N,) that each label of the union label space is of; ``sizes`` are its tasks' classes."""
    ends_T = torch.tensor(sizes, device=labels_N.device).cumsum(0)
    return torch.bucketize(labels_N, ends_T, right=True)


def foreign(labels_N: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return a mask (N, K), true at the classes of other tasks than the label's own."""
    class_task_K = task_of(torch.arange(sum(sizes), device=labels_N.device), sizes)
    return class_task_K[None] != task_of(labels_N, sizes)[:, None]


@dataclass(frozen=True)
class SliceCorrect:
    """For each example, at its task: 1 where the best class of the task is the target, and 1 for the example."""

    sizes: tuple[int, ...]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N, K) logits and (N,) labels of the union label space -> (N, 2, T)."""
        require_logits(prediction, target)
        if prediction.shape[-1] != sum(self.sizes):
            raise ShapeMismatch(f"logits of {prediction.shape[-1]} classes; the tasks have {sum(self.sizes)} together")
        require_classes(target, sum(self.sizes))
        own_NK = prediction.masked_fill(foreign(target, self.sizes), -torch.inf)
        task_NT = F.one_hot(task_of(target, self.sizes), len(self.sizes)).double()
        correct_N = (own_NK.argmax(-1) == target).double()
        return torch.stack([correct_N[:, None] * task_NT, task_NT], dim=1)


@dataclass(frozen=True)
class TaskAccuracy:
    """Mean over tasks of the accuracy on each task's slice, whatever their numbers of examples; or of one task.

    Attributes:
        sizes: Number of classes of each task, in order.
        task: Index of the one task that counts; None for the mean over all that have examples.
    """

    sizes: tuple[int, ...]
    task: int | None = None
    name: str = "task_accuracy"
    better: Better = "higher"

    def __post_init__(self) -> None:
        """Raise ConfigError for a task that is not there."""
        if self.task is not None and not 0 <= self.task < len(self.sizes):
            raise ConfigError(f"task={self.task} must lie between 0 and {len(self.sizes) - 1}, as there are tasks")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Correct ones and all, by task."""
        return (SliceCorrect(self.sizes),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 2, T) -> (...); NaN where the one task has no example."""
        (mean,) = means
        accuracy_T = self.by_task(mean)
        return accuracy_T.nanmean(-1) if self.task is None else accuracy_T[..., self.task]

    def by_task(self, mean: Tensor) -> Tensor:
        """(..., 2, T) -> (..., T): the accuracy on each task."""
        return mean[..., 0, :] / mean[..., 1, :]
