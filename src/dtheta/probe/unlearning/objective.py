"""What an unlearning loss works on: examples to forget and to retain, seen by the model as it is and as it was.

A loss is a function of the model under training, of the frozen original (the same model with the adapter switched off)
and of paired batches: example i to forget beside example i to retain, as in ConceptVectors (arXiv 2406.11614).

    CE     mean over tokens of the cross entropy
    S      its sum over the tokens of a sequence: -log pi(sequence)

Shape legend: B sequences, A tokens of them that count, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.arguments import is_number, number
from dtheta.errors import ConfigError
from dtheta.probe.predictions import Predictions, predictions

if TYPE_CHECKING:
    from dtheta.probe.unlearning.task import Task


class Side:
    """One side of a step, forget or retain: what the model and the original make of its examples, computed once."""

    def __init__(self, model: Any, batch: dict[str, Tensor]) -> None:
        self._model, self.batch = model, batch

    @cached_property
    def now(self) -> Predictions:
        """What the model under training makes of them."""
        return predictions(self._model, self.batch)

    @cached_property
    def original(self) -> Predictions:
        """What the original makes of them, without a gradient."""
        with torch.no_grad(), self._model.disabled():
            return predictions(self._model, self.batch)

    @cached_property
    def losses_A(self) -> Tensor:
        """Cross entropy of each token."""
        return self.now.losses_A()

    @cached_property
    def original_losses_A(self) -> Tensor:
        """Cross entropy of each token under the original."""
        return self.original.losses_A()

    def sums_B(self, values_A: Tensor) -> Tensor:
        """Return the sum of tokens' values over each sequence."""
        return self.now.sums_B(values_A)

    @property
    def ce(self) -> Tensor:
        """CE, the mean cross entropy."""
        return self.losses_A.mean()

    def kl_to_original(self) -> Tensor:
        """Return KL(original | model), the mean over the tokens."""
        original, now = (side.logits_AV.log_softmax(-1) for side in (self.original, self.now))
        return (original.exp() * (original - now)).sum(-1).mean()


def told(method: Any) -> dict[str, Any]:
    """Return name and settings of a dataclass, those of the losses in it likewise."""
    return {
        "name": type(method).__name__,
        **{entry.name: _plain(getattr(method, entry.name)) for entry in fields(method)},
    }


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Unlearning(ABC):
    """An unlearning loss. Fields are its settings."""

    #: Whether the loss looks at examples to retain.
    retains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If a number is negative, or something else stands where one is expected.
        """
        for entry in fields(self):
            value = getattr(self, entry.name)
            expected = is_number(entry.default) or is_number(value)
            if expected and number(value, entry.name) < 0:
                raise ConfigError(f"{type(self).__name__}: {entry.name} is {value}; expected 0 or more")

    @abstractmethod
    def loss(self, forget: Side, retain: Side) -> Tensor:
        """Return the loss of a step, a scalar."""

    def __call__(self, model: Any, batch: Mapping[str, dict[str, Tensor]]) -> Tensor:
        """Return the loss of paired batches: what ``fit`` calls."""
        return self.loss(Side(model, batch["forget"]), Side(model, batch["retain"]))

    @contextmanager
    def during(self, task: Task) -> Iterator[Callable[[Any, Any], Tensor]]:
        """Yield what a training calls at every step: the loss itself, as it keeps nothing between steps.

        Where what is yielded has ``holds()``, a training ends at the goal only if that is true.
        """
        yield self

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings."""
        return told(self)


@dataclass(frozen=True)
class Retaining(Unlearning):
    """An unlearning loss with terms that hold the retain examples.

    Attributes:
        retain: Weight of the retain examples' cross entropy.
        kl: Weight of the divergence from the original on them.
    """

    retain: float = 0.0
    kl: float = 0.0

    @abstractmethod
    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return the term that forgets."""

    def loss(self, forget: Side, retain: Side) -> Tensor:
        """Return the sum of the terms."""
        total = self.forgetting(forget, retain)
        if self.retain:
            total = total + self.retain * retain.ce
        if self.kl:
            total = total + self.kl * retain.kl_to_original()
        return total
