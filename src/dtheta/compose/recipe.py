"""Recipe: how long and how fast coefficients are learned. The three of aTLAS (arXiv 2407.02880) stand here.

    addition     20 epochs, AdamW 1e-3 constant, weight decay 0.1, clip 1
    few-shot     10 epochs, AdamW 1e-1, cosine to 0, weight decay 0.1, clip 1, at least 10 steps an epoch
    adaptation   10 epochs, AdamW 1e-3 constant, weight decay 0.1, clip 1           (without labels)

Weight decay pulls coefficients towards zero, that is, the model towards its base.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from dtheta.core.arguments import is_number
from dtheta.errors import ConfigError, did_you_mean
from dtheta.fit.settings import Schedule


@dataclass(frozen=True)
class Recipe:
    """How coefficients are learned.

    Attributes:
        epochs: Passes over the data.
        lr: Highest learning rate of AdamW.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient by all coefficients; None leaves it.
        schedule: "constant", or "cosine" or "linear" to zero; without warmup.
        accumulation: Batches a step.
        shortest: Steps an epoch has at least; shorter data is gone through again.
        penalty: Weight of the norm of the coefficients; 0 for none. The paper uses 0.5.
        order: 1 or 2: which norm, taken across the deltas and averaged over the blocks.
    """

    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.1
    clip: float | None = 1.0
    schedule: Schedule = "constant"
    accumulation: int = 1
    shortest: int = 1
    penalty: float = 0.0
    order: int = 1

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "accumulation": self.accumulation, "shortest": self.shortest}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected a whole number, 1 or more")
        for name in ("lr", "weight_decay", "penalty"):
            value = getattr(self, name)
            if not is_number(value) or not math.isfinite(value) or value < 0:
                raise ConfigError(f"{name} is {value!r}; expected a number, 0 or more")
        if self.clip is not None and not (is_number(self.clip) and self.clip > 0):
            raise ConfigError(f"clip is {self.clip!r}; expected a positive number, or None")
        if self.schedule not in ("constant", "cosine", "linear"):
            raise ConfigError(f"unknown schedule {self.schedule!r}; expected constant, cosine or linear")
        if self.order not in (1, 2):
            raise ConfigError(f"order is {self.order!r}; expected 1 or 2")


RECIPES = {
    "addition": Recipe(),
    "few-shot": Recipe(epochs=10, lr=1e-1, schedule="cosine", shortest=10),
    "adaptation": Recipe(epochs=10),
}


def recipe_of(name: str | Recipe, changes: dict[str, Any]) -> Recipe:
    """Return a recipe by name with some fields changed.

    Raises:
        ConfigError: For an unknown name or field, or a value that cannot be.
    """
    if isinstance(name, Recipe):
        found = name
    elif isinstance(name, str) and name in RECIPES:
        found = RECIPES[name]
    else:
        near = did_you_mean(str(name), RECIPES)
        raise ConfigError(f"unknown recipe {name!r}; expected one of {', '.join(RECIPES)}, or a Recipe{near}")
    known = list(Recipe.__dataclass_fields__)
    for field in changes:
        if field not in known:
            raise ConfigError(f"a recipe has no {field!r}{did_you_mean(field, known)}; it has {', '.join(known)}")
    return replace(found, **changes)
