"""Objectives: what a step minimizes, as weighted losses, each on data of its own.

    one task     L
    addition     L_1 + ... + L_T          one batch of each task a step; an epoch ends with the shortest task
    negation     -L_target + L_control

The losses of a step are differentiated one after the other, and their gradients by the coefficients added, so only one
graph is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dtheta.core.seeds import key
from dtheta.errors import ConfigError
from dtheta.fit.stream import Stream, as_batches
from dtheta.fit.trainable import Batch, Loss


@dataclass(frozen=True, eq=False)
class Task:
    """A loss and the data it is taken on.

    Attributes:
        name: For messages.
        batches: A source of batches.
        loss: (model, batch) -> scalar.
        weight: Sign and size with which it counts.
        begin: Told the model that shows the composition, before any batch is asked for: data may depend on it.
    """

    name: str
    batches: Any
    loss: Loss
    weight: float = 1.0
    begin: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        if not callable(self.loss):
            found, whose = type(self.loss).__name__, f" for {self.name!r}" if self.name else ""
            raise ConfigError(f"the loss is a {found}; expected a function{whose}: loss(model, batch) -> scalar")


def tasks(batches: Any, loss: Loss | Mapping[str, Loss]) -> list[Task]:
    """Return the tasks that batches and a loss stand for: one, or one for each name.

    Args:
        batches: A source of batches, or a mapping of names to sources.
        loss: (model, batch) -> scalar, for all tasks; or a mapping with the names of ``batches``.

    Raises:
        ConfigError: If the names do not agree, there is none, a loss is no function, or the mapping is one batch.
    """
    if not isinstance(batches, Mapping):
        if isinstance(loss, Mapping):
            raise ConfigError("several losses need batches by the same names")
        return [Task("", batches, loss)]
    if not batches:
        raise ConfigError("there is no task: batches is an empty mapping")
    if all(isinstance(source, Tensor) for source in batches.values()):
        raise ConfigError(
            f"a mapping names tasks, each with batches of its own, and this one holds tensors, {list(batches)}: if "
            "it is one batch, give it in a list"
        )
    if isinstance(loss, Mapping):
        if set(loss) != set(batches):
            raise ConfigError(f"losses are named {sorted(loss)} and batches {sorted(batches)}; expected the same names")
        return [Task(name, source, loss[name]) for name, source in batches.items()]
    return [Task(name, source, loss) for name, source in batches.items()]


class Supply:
    """The batches of several tasks, step by step, in an order that only the seed decides."""

    def __init__(self, found: Sequence[Task], seed: int) -> None:
        self.tasks = list(found)
        sources = [as_batches(task.batches, "train", None, None, seed) for task in found]
        self._streams = [Stream(s, key(seed, f"atlas/data/{i}")) for i, s in enumerate(sources)]
        self._lengths = [_length(task, source) for task, source in zip(found, sources, strict=True)]

    def steps(self, accumulation: int, shortest: int) -> int:
        """Return the steps of an epoch: those that the shortest task has batches for, and ``shortest`` at least."""
        return max(shortest, min(self._lengths) // accumulation, 1)

    def next(self) -> list[tuple[Task, Batch]]:
        """Return the next batch of every task."""
        return [(task, stream.next()) for task, stream in zip(self.tasks, self._streams, strict=True)]

    def close(self) -> None:
        """Put the generators of loaders back as they were."""
        for stream in self._streams:
            stream.close()


def _length(task: Task, source: Any) -> int:
    try:
        length = len(source)
    except TypeError:
        what = f"the batches of {task.name!r}" if task.name else "the batches"
        raise ConfigError(f"{what} have no length, so an epoch has no end; give a list or a DataLoader") from None
    if length == 0:
        raise ConfigError("the training data has no batch: it is empty")
    return length
