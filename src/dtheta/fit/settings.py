"""Settings: every choice that the result of a training run depends on, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dtheta.errors import ConfigError

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Settings:
    """The numbers of a run; the fields mean what they mean in ``fit``."""

    steps: int
    lr: float = 1e-3
    full_lr: float | None = None
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    optimizer: Optimizer = "adamw"
    momentum: float = 0.0
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
        if not (_is_number(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay must be zero or a positive number, got {self.weight_decay!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, got {self.seed!r}")
        if not isinstance(self.allow_unused, bool):
            raise ConfigError(f"allow_unused must be True or False, got {self.allow_unused!r}")
        _choice("schedule", self.schedule, get_args(Schedule))
        _choice("precision", self.precision, get_args(Precision))
        _choice("optimizer", self.optimizer, get_args(Optimizer))
        if not (_is_number(self.momentum) and 0 <= self.momentum < 1):
            raise ConfigError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if self.momentum and self.optimizer != "sgd":
            raise ConfigError(f"momentum={self.momentum} goes with optimizer='sgd'; {self.optimizer} has its own")
        if self.warmup_steps > self.steps:
            raise ConfigError(f"warmup={self.warmup} is longer than the run of {self.steps} steps")

    @property
    def warmup_steps(self) -> int:
        """Steps of the warmup: a share of all steps below 1, else a number of steps."""
        known = _is_number(self.warmup) and self.warmup >= 0
        if not known or (self.warmup >= 1 and self.warmup != int(self.warmup)):
            raise ConfigError(f"warmup must be a share in [0, 1) or a whole number of steps, got {self.warmup!r}")
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


def _is_number(value: Any) -> bool:
    """Tell whether something is a finite number; a string, a flag or a tensor is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(name: str, value: Any) -> None:
    if not (_is_number(value) and value > 0):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
