"""How a model is adapted to a task: method, steps, rates, head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dtheta.adapt.full import Full
from dtheta.adapt.method import Method
from dtheta.adapt.training import Training
from dtheta.errors import ConfigError

#: Rates that did best on held-out training texts of the packaged tasks (never on test texts), at rank 16 and 60 steps.
#: Of networks on sentiment and 20news, of 0.001 to 0.1, with 256 texts (bench/adapters.py).
#: Of prompts on bbc and sentiment, of 0.003 to 0.1, with 160 texts for training and 80 held out (bench/prompts.py).
RATES: Mapping[str, float] = {
    "LoRA": 2e-3,
    "PiSSA": 5e-4,
    "SORSA": 2e-4,
    "PromptTuning": 3e-3,
    "DePT": 3e-2,
    "SNNK": 1e-2,
    "Houlsby": 3e-3,
}


@dataclass(frozen=True)
class Recipe(Training):
    """How a model is adapted; every field is in the provenance of the delta.

    Attributes:
        method: What trains.
        select: Where; the method's default selection if None.
        steps: Optimizer steps.
        batch_size: Texts a step.
        lr: Highest rate of the method's terms; the one in ``RATES``, or 1e-3, if None.
        head: Where the head starts: "probe", the regression on frozen features, so that training begins where the
            baseline ends (Kumar et al. 2022, arXiv 2202.10054), or "zero".
        head_C: Inverse penalty of that regression. Stronger than the baseline's own: a head that already fits the
            training texts leaves the encoder little gradient to learn from.
        head_lr: Highest rate of the classifier's head.
        warmup: Rising share of the schedule, which falls as a cosine to zero.
        weight_decay: AdamW's.
        dropout: Whether the model's own dropout acts while training; over few steps it slows and blurs the training.
        max_length: Tokens kept of a text.
        validate: Training texts to hold out; the best of ten evaluations on them is kept. 0 keeps the last step.
        seed: Key of the order of the texts, dropout and random starts.
    """

    rates: ClassVar[Mapping[str, float]] = RATES
    method: Method
    select: str | None = None
    steps: int = 60
    batch_size: int = 16
    lr: float | None = None
    head: Literal["probe", "zero"] = "probe"
    head_C: float = 0.1
    head_lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    dropout: bool = False
    max_length: int = 64
    validate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that cannot be meant, before anything is computed from it."""
        if self.max_length < 1:
            raise ConfigError(f"max_length={self.max_length} must be a whole number of at least 1")
        self.check("head_lr", "head_C")

    @property
    def full_rate(self) -> float:
        """The highest rate of what trains in full; with a method that does, the head cannot have one of its own."""
        return self.rate if isinstance(self.method, Full) else self.head_lr
