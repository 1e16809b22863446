"""What every recipe shares: its numbers checked, the call of ``fit``, what the delta keeps of it, what is watched.

trained(adapter, recipe, data)     the record of fitting an adapter as a recipe says
traced(delta, recipe, task)        the delta, whose provenance holds the recipe and the task
dropout_as(model, active)          a block with the model's own dropout on or off
orthogonality, watch               how far the factors are from orthonormal, before training and during it
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.method import Method
from dtheta.adapt.sorsa import orthonormality
from dtheta.adapt.term import FactoredTerm
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from dtheta.fit.record import Record
from dtheta.fit.run import Callback, Step
from dtheta.fit.settings import Settings

_RATE = 1e-3
_ORTHONORMAL = 1e-2  # mean Frobenius distance below which factors are said to start orthonormal


class Training:
    """What all recipes have: these fields, each a dataclass's own, and what follows from them.

    Attributes:
        rates: By name of a method, the highest rate where a recipe gives none; 1e-3 for the rest.
    """

    rates: ClassVar[Mapping[str, float]]
    method: Method
    steps: int
    batch_size: int
    lr: float | None
    warmup: float
    weight_decay: float
    validate: int
    seed: int

    @property
    def rate(self) -> float:
        """The highest rate of the method's terms."""
        return self.lr if self.lr is not None else self.rates.get(self.method.name, _RATE)

    def settings(self) -> dict[str, Any]:
        """Return the fields as a file keeps them; method and seed have places of their own there."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("method", "seed")]  # type: ignore[arg-type]
        return {**{name: getattr(self, name) for name in names}, "lr": self.rate}

    def check(self, *rates: str) -> None:
        """Raise ConfigError for a method or a number that cannot be meant, in the fields above and in other rates."""
        if not isinstance(self.method, Method):
            raise ConfigError(f"method must be a method, such as dt.LoRA(rank=8), found {self.method!r:.80}")
        for name in ("lr", *rates):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value}")
        if self.validate < 0:
            raise ConfigError(f"validate={self.validate} must be a whole number of at least 0")
        Settings(
            self.steps, self.rate, warmup=self.warmup, weight_decay=self.weight_decay, batch_size=self.batch_size
        )  # checks the rest


def trained(adapter: Adapter, recipe: Training, train: Any, **options: Any) -> Record:
    """Return the record of fitting an adapter as a recipe says; data and options are those of ``fit``."""
    return fit(
        adapter,
        train,
        steps=recipe.steps,
        lr=recipe.rate,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        **options,
    )


def traced(delta: Delta, recipe: Training, task: dict[str, Any]) -> Delta:
    """Return a trained delta whose provenance says how it was trained, and for what."""
    settings = {**delta.provenance.settings, **recipe.settings()}
    return replace(delta, provenance=replace(delta.provenance, settings=settings, seed=recipe.seed, task=task))


@contextmanager
def dropout_as(model: nn.Module, active: bool) -> Iterator[None]:
    """Run a block with the model's dropout layers switched off, unless ``active``; they are as they were after it."""
    layers = [] if active else [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    before = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = 0.0
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p


def orthogonality(adapter: Adapter) -> list[tuple[int, float]]:
    """Return the distance from orthonormal at step 0, in a list to go on with; empty where factors do not start there.

    Factors that carry singular values (PiSSA) or are drawn (LoRA) are not meant to be orthonormal, so nothing is
    measured for them.
    """
    factored = any(isinstance(term, FactoredTerm) for term in adapter.terms.values())
    start = orthonormality(adapter) if factored else math.inf
    return [(0, start)] if start < _ORTHONORMAL else []


def watch(distances: list[tuple[int, float]], steps: int) -> Callback:
    """Return a callback that goes on with the list of distances, about twenty times in all."""
    every = max(1, steps // 20)

    def note(step: Step) -> None:
        if distances and (step.step % every == 0 or step.step == steps):
            distances.append((step.step, orthonormality(step.adapter)))

    return note
