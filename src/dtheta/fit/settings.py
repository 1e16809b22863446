"""Settings: every choice that the result of a training run depends on, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dtheta.errors import ConfigError

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Settings:
    """The numbers of a run; the fields mean what they mean in ``fit``."""

    steps: int
    lr: float = 1e-3
    full_lr: float | None = None
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    accumulation: int = 1
    clip: float | None = 1.0
    precision: Precision = "fp32"
    batch_size: int | None = None
    eval_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    allow_unused: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that cannot be meant."""
        for name in ("steps", "accumulation", "batch_size", "eval_every", "patience", "checkpoint_every"):
            _count(name, getattr(self, name), optional=name not in ("steps", "accumulation"))
        _positive("lr", self.lr)
        for name in ("full_lr", "clip"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay must be zero or a positive number, got {self.weight_decay}")
        _choice("schedule", self.schedule, get_args(Schedule))
        _choice("precision", self.precision, get_args(Precision))
        if self.warmup_steps > self.steps:
            raise ConfigError(f"warmup={self.warmup} is longer than the run of {self.steps} steps")

    @property
    def warmup_steps(self) -> int:
        """Steps of the warmup: a share of all steps below 1, else a number of steps."""
        if not self.warmup >= 0 or (self.warmup >= 1 and self.warmup != int(self.warmup)):
            raise ConfigError(f"warmup must be a share in [0, 1) or a whole number of steps, got {self.warmup}")
        return round(self.warmup * self.steps) if self.warmup < 1 else int(self.warmup)

    @property
    def evaluation_interval(self) -> int:
        """Steps from one evaluation to the next: ten a run unless said otherwise."""
        return self.eval_every or max(1, self.steps // 10)

    @property
    def checkpoint_interval(self) -> int:
        """Steps from one checkpoint to the next: ten a run unless said otherwise."""
        return self.checkpoint_every or max(1, self.steps // 10)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return dataclasses.asdict(self)


def _count(name: str, value: Any, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a positive number, got {value}")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
