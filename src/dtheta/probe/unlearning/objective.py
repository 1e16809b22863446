"""What an unlearning loss works on: examples to forget and to retain, seen by the model as it is and as it was.

A loss is a function of the model under training, of the frozen original (the same model with the adapter switched off)
and of paired batches: example i to forget beside example i to retain, as in ConceptVectors (arXiv 2406.11614).

    CE     mean over tokens of the cross entropy
    S      its sum over the tokens of a sequence: -log pi(sequence)

Shape legend: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.arguments import is_number, number
from dtheta.errors import ConfigError
from dtheta.probe.examples import logits_of, token_losses


class Side:
    """One side of a step, forget or retain: what the model and the original make of its examples, computed once."""

    def __init__(self, model: Any, batch: dict[str, Tensor]) -> None:
        self._model, self.batch = model, batch

    @cached_property
    def _now(self) -> tuple[Tensor, Tensor, Tensor]:
        return logits_of(self._model, self.batch)

    @cached_property
    def original_BTV(self) -> Tensor:
        """Logits of the original, without a gradient."""
        with torch.no_grad(), self._model.disabled():
            return logits_of(self._model, self.batch)[0]

    @property
    def logits_BTV(self) -> Tensor:
        """Logits of the model under training."""
        return self._now[0]

    @property
    def target_BT(self) -> Tensor:
        """The tokens that the logits predict."""
        return self._now[1]

    @property
    def counts_BT(self) -> Tensor:
        """Whether a token counts."""
        return self._now[2]

    @cached_property
    def losses_BT(self) -> Tensor:
        """Cross entropy of each token."""
        return token_losses(*self._now)

    @cached_property
    def original_losses_BT(self) -> Tensor:
        """Cross entropy of each token under the original."""
        return token_losses(self.original_BTV, self.target_BT, self.counts_BT)

    def mean(self, values_BT: Tensor) -> Tensor:
        """Return the mean over the tokens that count."""
        return (values_BT * self.counts_BT).sum() / self.counts_BT.sum()

    @property
    def ce(self) -> Tensor:
        """CE, the mean cross entropy."""
        return self.mean(self.losses_BT)

    def kl_to_original(self) -> Tensor:
        """Return KL(original | model), the mean over the tokens that count."""
        original, now = self.original_BTV.log_softmax(-1), self.logits_BTV.log_softmax(-1)
        return self.mean((original.exp() * (original - now)).sum(-1))


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

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings."""
        return {"name": type(self).__name__, **{entry.name: getattr(self, entry.name) for entry in fields(self)}}


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
