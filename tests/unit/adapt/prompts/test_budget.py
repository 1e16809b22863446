"""The budget solver on costs that are known: its arithmetic, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dtheta.adapt.prompts import step_cost as timing
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.budget import prompt_budget
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.step_cost import StepCost, step_cost
from dtheta.errors import ConfigError
from tests.unit.adapt.prompts.conftest import make

LINEAR = StepCost(0.0, 1e-3, 0.0)


@pytest.mark.parametrize("terms", [(0.1, 2e-3, 3e-6), (0.0, 2e-3, 0.0), (0.5, 0.0, 1e-5), (0.2, 1e-3, 0.0)])
def test_the_cost_is_found_from_its_own_timings(terms: tuple[float, float, float]) -> None:
    cost = StepCost(*terms)
    found = StepCost.fitted({n: cost(n) for n in (16, 48, 96, 160, 300)})
    assert found.error < 1e-9
    assert (found.constant, found.linear, found.quadratic) == pytest.approx(terms, rel=1e-6, abs=1e-10)


def test_no_term_is_negative() -> None:
    """A curve that bends down would extrapolate to negative times."""
    found = StepCost.fitted({n: math.sqrt(n) for n in (16, 64, 256, 1024)})
    assert min(found.constant, found.linear, found.quadratic) >= 0 and found.error > 0.1


def test_timings_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="3 lengths or more, found 2"):
        StepCost.fitted({16: 1.0, 32: 2.0})
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="positive"):
            StepCost.fitted({16: 1.0, 32: 2.0, 64: bad})


@pytest.mark.parametrize("columns", [16, 64, 256, 2000])
def test_a_linear_cost_saves_l_less_m_over_l_plus_n(columns: int) -> None:
    found = prompt_budget(576, [columns], LINEAR, share=1.0, positions=64)
    for choice in found.choices:
        assert choice.saving == pytest.approx((100 - choice.method.length) / (100 + columns))
        assert choice.first_order == pytest.approx(choice.saving)
    assert found.fastest is found.choices[-1] and found.fastest.method.length == 0


def test_a_constant_and_attention_change_the_saving() -> None:
    fixed = prompt_budget(576, [64], StepCost(0.1, 1e-3, 0.0), share=1.0).fastest
    bent = prompt_budget(576, [64], StepCost(0.0, 1e-3, 1e-5), share=1.0).fastest
    assert fixed.saving < fixed.first_order < bent.saving
    assert bent.share == pytest.approx((64e-3 + 64**2 * 1e-5) / (164e-3 + 164**2 * 1e-5))


def test_the_longest_prompt_that_is_fast_enough_is_chosen() -> None:
    found = prompt_budget(384, [16, 64, 64, 48], LINEAR, share=0.7, positions=64, alpha=8.0)
    share = lambda m: (48 + m) / 148  # noqa: E731
    assert found.columns == 48
    best = max(m for m in range(100) if share(m) <= 0.7)
    assert found.chosen.method == DePT.of_budget(100, best, 64, 384, alpha=8.0) and share(best + 1) > 0.7
    assert [c.method.length for c in found.choices] == sorted((c.method.length for c in found.choices), reverse=True)
    assert all(c.parameters == c.method.parameters(384) <= 100 * 384 for c in found.choices)
    assert "chosen" in str(found) and "too slow" in str(found)


def test_counts_are_weights() -> None:
    many = prompt_budget(384, [16, 16, 16, 200], LINEAR, share=1.0)
    counted = prompt_budget(384, {16: 3, 200: 1}, LINEAR, share=1.0)
    assert many == counted and many.choices[0].method.positions == 200  # type: ignore[union-attr]
    assert many.fastest.share == pytest.approx(248 / 648)


def test_token_wise_offsets() -> None:
    found = prompt_budget(768, [64], LINEAR, share=0.8, offsets="token", offset_lr=None)
    assert found.chosen.method == ADePT.of_budget(100, found.chosen.method.length, 768, offset_lr=None)
    assert found.choices[0].method.length == 96  # three tokens pay for rank 1, and one parameter more
    with pytest.raises(ConfigError, match="leave positions out"):
        prompt_budget(768, [64], LINEAR, offsets="token", positions=64)


def test_what_cannot_be_reached_says_what_can() -> None:
    with pytest.raises(ConfigError, match=r"at most 0\.8 of the time: without virtual tokens it is 0\.952"):
        prompt_budget(384, [2000], LINEAR)
    with pytest.raises(ConfigError, match="nothing for rank 1"):
        prompt_budget(16, [500], LINEAR, tokens=4)
    with pytest.raises(ConfigError, match="alpha must be a positive number"):
        prompt_budget(384, [16], LINEAR, alpha=-1.0)
    for bad in ({"columns": []}, {"columns": [0]}, {"share": 0.0}, {"share": 1.5}, {"tokens": 0},
                {"tokens": 2.5}, {"width": 0}, {"columns": [1.5]}, {"positions": 0}, {"offsets": "tok"}):  # fmt: skip
        with pytest.raises(ConfigError):
            prompt_budget(**{"width": 384, "columns": [16], "cost": LINEAR, **bad})


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_calibration_times_steps_and_leaves_the_model_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = make(name)
    before = {n: p.clone() for n, p in model.named_parameters()}
    given = StepCost(0.1, 2e-3, 3e-6)
    seen: list[int] = []

    def seconds(run: Any) -> float:
        run()
        x = run.__closure__[[c for c in run.__code__.co_freevars].index("x")].cell_contents
        assert x.grad is not None and x.grad.any() and x.shape[0] == 2
        seen.append(x.shape[1])
        return given(x.shape[1])

    monkeypatch.setattr(timing, "_seconds", seconds)
    found = step_cost(model, columns=(4, 8, 16, 32), batch_size=2, repeat=2)
    assert seen == [4, 8, 16, 32] * 3
    assert (found.constant, found.linear, found.quadratic) == pytest.approx((0.1, 2e-3, 3e-6), rel=1e-6)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_more_columns_than_positions() -> None:
    with pytest.raises(ConfigError, match="64 columns do not fit into the 48 positions"):
        step_cost(make("gpt2"), columns=(16, 32, 64))


@pytest.mark.parametrize("terms", [(0, 0, 0), (math.nan, 0, 0), (-1, 1, 0), (1, -1, 0), (math.inf, 0, 0)])
def test_a_cost_that_is_no_time(terms: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="finite terms of 0 or more"):
        StepCost(*terms)
