from __future__ import annotations

import math

import pytest

from dtheta.errors import ConfigError
from dtheta.fit.schedule import factor
from dtheta.fit.settings import Settings


def test_warmup_rises_to_the_highest_rate_and_never_is_zero() -> None:
    assert [factor(t, 100, 4, "constant") for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(("schedule", "half"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_the_middle_and_the_end_of_each_schedule(schedule: str, half: float) -> None:
    assert factor(0, 10, 0, schedule) == 1.0
    assert factor(5, 10, 0, schedule) == pytest.approx(half)
    assert 0.0 < factor(9, 10, 0, schedule) <= 1.0


def test_cosine_is_the_cosine_after_the_warmup() -> None:
    assert factor(13, 20, 4, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi * 9 / 16)))


def test_warmup_is_a_share_below_one_and_a_count_from_one_on() -> None:
    assert Settings(steps=200).warmup_steps == 6
    assert Settings(steps=200, warmup=20).warmup_steps == 20
    assert Settings(steps=200, warmup=0).warmup_steps == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("steps", 2.5), ("steps", True), ("lr", 0.0), ("lr", math.nan), ("full_lr", -1.0), ("clip", 0.0),
        ("weight_decay", -0.1), ("accumulation", 0), ("schedule", "step"), ("precision", "int8"), ("warmup", -0.1),
        ("warmup", 1.5), ("warmup", 101), ("eval_every", 0), ("patience", 0), ("checkpoint_every", 0),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_meant_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Settings(**{"steps": 100, field: value})  # type: ignore[arg-type]
