"""Mixture: several image tasks as one stream of batches, their labels offset into the union label space.

    start_t = sum_{s < t} C_s                    label of class c of task t: start_t + c
    quota_t = N n_t^(1/tau) / sum_s n_s^(1/tau)  items of task t in an epoch of N = sum_t n_t, rounded to whole ones

tau = 1 takes every item once an epoch: the plain shuffling of MVLPT's released code (Shen et al. 2022, arXiv
2211.11720), in which large tasks dominate. tau = inf gives all tasks the same number; what lies between is T5's
temperature mixing (Raffel et al. 2019, arXiv 1910.10683). A small task is gone through as often as its quota says, a
large one in part; within a task nothing comes twice before everything came once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator
from dtheta.data.batches import Batch, KeyedOrder
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, ShapeMismatch

_LARGEST = 600  # logarithm of a weight, of which some thousands still add up in a double


class TensorItems(Dataset[dict[str, Tensor]]):
    """Tensors in step as a dataset; item i is row i of each, by name. Image features computed once are such tensors."""

    def __init__(self, **tensors: Tensor) -> None:
        """Keep tensors of N rows each, such as ``image_features`` (N, E) and ``labels`` (N,).

        Raises:
            ShapeMismatch: They do not have one number of rows.
        """
        sizes = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(sizes.values())) != 1:
            raise ShapeMismatch(f"tensors in step must have as many rows each, found {sizes}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


class Mixture(Dataset[dict[str, Any]]):
    """Datasets of several tasks, one after the other; the items are dicts with ``labels`` in the union label space."""

    def __init__(self, tasks: Sequence[Dataset[Any]], sizes: Sequence[int]) -> None:
        """Join datasets.

        Args:
            tasks: One dataset a task, whose items are dicts with ``labels``, the task's own class ids.
            sizes: Number of classes of each task.

        Raises:
            ConfigError: There is no task, an empty one, or not one number of classes each.
        """
        self.counts = [len(task) for task in tasks]  # type: ignore[arg-type]  # map-style datasets have a length
        if not tasks or len(sizes) != len(tasks) or not all(self.counts):
            raise ConfigError(
                f"expected one or more tasks with items, and one number of classes each; found {self.counts} items and "
                f"{list(sizes)} classes"
            )
        self.tasks = list(tasks)
        self.sizes = [whole(size, "a number of classes", 1) for size in sizes]
        self.starts = offsets(self.sizes)
        self._first = offsets(self.counts)

    def __len__(self) -> int:
        return sum(self.counts)

    def set_epoch(self, epoch: int) -> None:
        """Tell the datasets that want to know it which epoch comes, for their augmentation."""
        for task in self.tasks:
            if callable(getattr(task, "set_epoch", None)):
                task.set_epoch(epoch)  # type: ignore[attr-defined]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an item.

        Raises:
            ConfigError: Its label is no class of its task; offset, it would be one of the next task.
        """
        task = max(t for t, first in enumerate(self._first) if first <= index)
        item: Mapping[str, Any] = self.tasks[task][index - self._first[task]]
        label = int(item["labels"])
        if not 0 <= label < self.sizes[task]:
            raise ConfigError(f"task {task}: label {label} is none of its {self.sizes[task]} classes")
        return {**item, "labels": torch.tensor(self.starts[task] + label)}


class MixtureOrder(KeyedOrder):
    """The order of a mixture's items in an epoch, by the temperature tau; a pure function of (seed, epoch)."""

    def __init__(self, counts: Sequence[int], temperature: float = 1.0, seed: int = 0) -> None:
        """Order tasks of ``counts`` items.

        Raises:
            ConfigError: The temperature is not positive.
        """
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature} must be positive: 1 is by size, math.inf uniform over tasks")
        super().__init__(sum(counts), seed)
        self.counts = list(counts)
        self.quotas = quotas(self.counts, temperature)

    def __iter__(self) -> Iterator[int]:
        first = offsets(self.counts)
        drawn = [first[t] + index for t in range(len(self.counts)) for index in self._of_task(t)]
        return iter([drawn[place] for place in keyed_order(self.count, self.seed, f"order/{self.epoch}")])

    def _of_task(self, task: int) -> list[int]:
        """Return the items of a task in this epoch: whole rounds, and the beginning of one more."""
        rounds = math.ceil(self.quotas[task] / self.counts[task])
        name = f"mixture/{task}/{self.epoch}"
        every = [keyed_order(self.counts[task], self.seed, f"{name}/{k}") for k in range(rounds)]
        return [index for order in every for index in order][: self.quotas[task]]


def offsets(sizes: Sequence[int]) -> list[int]:
    """Return where each part begins when parts of ``sizes`` follow one another."""
    return [0, *accumulate(sizes)][:-1]


def quotas(counts: Sequence[int], temperature: float) -> list[int]:
    """Return how many items of each task an epoch takes; they add up to the number of all items (largest remainder)."""
    one = max(counts) if math.log(max(counts)) / temperature > _LARGEST else 1  # else no double would hold the weights
    weights = [(count / one) ** (1 / temperature) for count in counts]
    shares = [sum(counts) * weight / sum(weights) for weight in weights]
    found = [math.floor(share) for share in shares]
    by_rest = sorted(range(len(counts)), key=lambda t: (found[t] - shares[t], t))
    for task in by_rest[: sum(counts) - sum(found)]:
        found[task] += 1
    return found


def mixture_loader(
    mixture: Mixture, batch_size: int = 32, seed: int = 0, temperature: float = 1.0, shuffle: bool = True
) -> DataLoader[Batch]:
    """Return batches of a mixture, as ``dt.fit`` takes them; the last of an epoch may be smaller.

    Args:
        mixture: The tasks.
        batch_size: Items a batch, of all tasks together.
        seed: Of the order.
        temperature: 1 draws tasks by size, ``math.inf`` uniformly.
        shuffle: False takes every item once in order, as evaluation wants it.

    Raises:
        ConfigError: A batch size below 1, or a temperature that is not positive.
    """
    order = MixtureOrder(mixture.counts, temperature, seed) if shuffle else None
    return DataLoader(
        mixture,
        batch_size=whole(batch_size, "batch_size", 1),
        sampler=order,
        generator=generator(seed, "loader"),  # else every pass would draw from torch's global generator
    )
