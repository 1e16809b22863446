"""Transfer: what a prompt trained on task i is worth as a start on task j.

    g_ij = (acc(j | init i) - acc(j)) / (1 - acc(j))     share of the errors on j that the start removes; g_jj = 0
    partners(j) = the i with the largest mean g_ij, at most four, of those above zero
    affinity = (g + g^T) / 2                             which clusters are made of, by average linkage

MVLPT's study (Shen et al. 2022, arXiv 2211.11720) runs all pairs of 20 tasks and groups five of them; neither its gain
nor its rule of selection could be found, so both are those above. A gain of one seed is a difference of two noisy
accuracies: every entry has Student's t interval over seeds, and a task is a partner by its mean alone.

Shape legend: S seeds, T tasks; first index the source i, second the target j.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.adapt.mvlpt.clusters import average_linkage
from dtheta.core.aligned import aligned
from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, ShapeMismatch, did_you_mean
from dtheta.score.interval import Interval, mean_interval

#: (source or None, target, seed) -> accuracy on the target in [0, 1] after training on it from the source's prompt.
Measured = Callable[[str | None, str, int], float]


@dataclass(frozen=True, eq=False)
class Transfer:
    """Accuracies over task pairs, and the gains in them.

    Attributes:
        tasks: Names of the T tasks, sources and targets alike.
        alone: (S, T) accuracies in [0, 1] on each task without a source.
        started: (S, T, T) accuracies on task j from the prompt of task i; the diagonal is not looked at.
        level: Of the intervals.
    """

    tasks: tuple[str, ...]
    alone: Tensor
    started: Tensor
    level: float = 0.95

    def __post_init__(self) -> None:
        """Raise for shapes that do not fit, accuracies that are none, and targets on which nothing can be gained."""
        seeds, count = len(self.alone), len(self.tasks)
        if self.alone.shape != (seeds, count) or self.started.shape != (seeds, count, count):
            raise ShapeMismatch(
                f"expected accuracies (S, {count}) and (S, {count}, {count}) of {count} tasks, found "
                f"{tuple(self.alone.shape)} and {tuple(self.started.shape)}"
            )
        if not seeds or len(set(self.tasks)) != count:
            raise ConfigError(
                f"expected one or more seeds, and tasks with different names; found {seeds}, {self.tasks}"
            )
        used = torch.cat([self.alone.flatten(), self.started[:, ~torch.eye(count, dtype=torch.bool)].flatten()])
        if not bool(((used >= 0) & (used <= 1)).all()):
            raise ConfigError("an accuracy lies between 0 and 1; divide percentages by 100")
        if bool((self.alone == 1).any()):
            full = self.tasks[int((self.alone == 1).any(0).int().argmax())]
            raise ConfigError(
                f"{full}: without a source every image is right for some seed, so nothing can be gained and no gain is "
                "defined; test on more images, train on fewer, or leave the task out"
            )

    @property
    def gains(self) -> Tensor:
        """(S, T, T) gains g_ij of each seed; the diagonal is zero."""
        found = (self.started - self.alone[:, None]) / (1 - self.alone[:, None])
        return found.masked_fill(torch.eye(len(self.tasks), dtype=torch.bool), 0.0)

    @property
    def gain(self) -> Tensor:
        """(T, T) gains, mean over seeds."""
        return self.gains.mean(0)

    @property
    def affinity(self) -> Tensor:
        """(T, T) symmetric part of the mean gains."""
        return (self.gain + self.gain.T) / 2

    def interval(self, source: str, target: str) -> Interval:
        """Return g of one pair with its interval over seeds.

        Raises:
            ConfigError: There is no such task, both are one, or there is one seed only.
        """
        i, j = self._index(source), self._index(target)
        if i == j:
            raise ConfigError(f"{target}: a task is no source of itself; its gain is 0 by definition")
        return mean_interval(self.gains[:, i, j], self.level)

    def partners(self, target: str, most: int = 4) -> tuple[str, ...]:
        """Return the sources with the largest positive mean gain on a target, the best first."""
        gain_T = self.gain[:, self._index(target)]
        best = sorted(range(len(self.tasks)), key=lambda i: (-float(gain_T[i]), i))
        return tuple(self.tasks[i] for i in best[: whole(most, "most", 0)] if float(gain_T[i]) > 0)

    def group(self, target: str, most: int = 4) -> tuple[str, ...]:
        """Return a target and its partners: the tasks to train one prompt on for it."""
        return (target, *self.partners(target, most))

    def clusters(self, count: int) -> tuple[tuple[str, ...], ...]:
        """Return ``count`` disjoint groups of tasks that help each other, by average linkage on the affinity."""
        return tuple(tuple(self.tasks[i] for i in found) for found in average_linkage(self.affinity, count))

    def table(self) -> str:
        """Return the gains as text: a row a source, a column a target, in percent, with the interval's half width.

        A star says that the interval excludes zero; with one seed there is no interval.
        """
        cells = [[self._cell(i, j) for j in range(len(self.tasks))] for i in range(len(self.tasks))]
        rows = [[name, *row] for name, row in zip(self.tasks, cells, strict=True)]
        return "\n".join(aligned(["from \\ to", *self.tasks], rows))

    def _cell(self, i: int, j: int) -> str:
        if i == j:
            return "-"
        if len(self.alone) < 2:
            return f"{100 * float(self.gain[i, j]):+.1f}"
        found = self.interval(self.tasks[i], self.tasks[j])
        half = (found.high - found.low) / 2
        return f"{100 * found.estimate:+.1f} ±{100 * half:.1f}{'*' if found.excludes(0.0) else ''}"

    def _index(self, task: str) -> int:
        if task not in self.tasks:
            raise ConfigError(f"there is no task {task!r}{did_you_mean(task, self.tasks)}")
        return self.tasks.index(task)


def measure_transfer(tasks: Sequence[str], seeds: Sequence[int], accuracy: Measured, level: float = 0.95) -> Transfer:
    """Measure all pairs of tasks: T trainings without a source and T (T - 1) from one, for each seed.

    Args:
        tasks: Names.
        seeds: One or more; two or more for intervals.
        accuracy: (source or None, target, seed) -> accuracy in [0, 1]. Everything but the start must be the same for
            all sources: the few images, their order, the rate, the steps, the test images.
        level: Of the intervals.

    Raises:
        ConfigError: An accuracy is none, or is 1 without a source: there g is 0 / 0, or minus infinity. This is told
            before any pair is trained.
    """
    alone = torch.zeros(len(seeds), len(tasks), dtype=torch.float64)
    started = torch.zeros(len(seeds), len(tasks), len(tasks), dtype=torch.float64)
    for s, seed in enumerate(seeds):
        for j, target in enumerate(tasks):
            alone[s, j] = accuracy(None, target, seed)
    Transfer(tuple(tasks), alone, started, level)  # a target with nothing to gain is refused before the pairs train
    for s, seed in enumerate(seeds):
        for (i, source), (j, target) in itertools.product(enumerate(tasks), repeat=2):
            started[s, i, j] = alone[s, j] if i == j else accuracy(source, target, seed)
    return Transfer(tuple(tasks), alone, started, level)
