"""Plans of merges: which value a parameter has for a tensor, and what a plan remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dtheta.compose.merge_plan import merge_plan, resolved
from dtheta.compose.merge_rules import RULES, Parameter
from dtheta.errors import ConfigError

NUMBER, SWITCH = Parameter(each=True), Parameter(False, flag=True)


@pytest.mark.parametrize(
    ("setting", "tensor", "t", "value"),
    [
        (0.5, "x", 0.3, 0.5),
        ("1e-1", "x", 0.3, 0.1),
        ([0, 1], "x", 0.25, 0.25),
        ([0, 1, 0], "x", 0.75, 0.5),
        ([3], "x", 1.0, 3.0),
        ([0, 10], "x", 1.0, 10.0),
        ([{"filter": "mlp", "value": 2}, {"value": 3}], "layers.0.mlp.up", 0, 2.0),
        ([{"filter": "mlp", "value": 2}, {"value": 3}], "layers.0.attn", 0, 3.0),
        ([{"filter": "*", "value": [1, 2]}], "x", 0.5, 1.5),
        ({"filter": "mlp", "value": 2}, "attn", 0, 7.0),  # no filter fits: the next scope has the word
    ],
)
def test_a_setting_at_a_tensor(setting: Any, tensor: str, t: float, value: float) -> None:
    assert resolved("weight", NUMBER, ({}, {"weight": setting}, {"weight": 7}), tensor, t) == pytest.approx(value)


def test_switches_step_where_numbers_glide() -> None:
    assert resolved("normalize", SWITCH, ({"normalize": [True, False]},), "x", 0.5) is True
    assert resolved("normalize", SWITCH, ({"normalize": [True, False]},), "x", 1.0) is False
    assert resolved("normalize", SWITCH, ({},), "x", 1.0) is False


@pytest.mark.parametrize("setting", ["much", None, True, float("nan"), [], [{"filter": "a"}], [1, [2]], {"vlaue": 1}])
def test_settings_that_cannot_be_meant(setting: Any) -> None:
    with pytest.raises(ConfigError, match="weight"):
        resolved("weight", NUMBER, ({"weight": setting},), "x", 0.0)
    with pytest.raises(ConfigError, match="weight is missing"):
        resolved("weight", NUMBER, ({},), "x", 0.0)
    with pytest.raises(ConfigError, match=r"density must be a number in \[0, 1\], found 1.5"):
        resolved("density", RULES["ties"].parameters["density"], ({"density": 1.5},), "x", 0.0)


def test_a_plan_remembers_names_and_no_places() -> None:
    plan = merge_plan("ties", [("/far/away/one", {"weight": 1})], "/far/away/base", lambda_=0.5)
    settings = plan.to_settings()
    assert settings["base"] == "base"
    assert settings["parameters"] == {"lambda": 0.5}
    assert "far" not in str(settings)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, "bfloat16"])
def test_weights_are_not_written_as_integers(dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"dtype is .*; expected torch.float32"):
        merge_plan("linear", ["one"], dtype=dtype)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("one/", r"models is 'one/'; expected a list: \['one/'\]"),
        (Path("one"), "expected a list"),
        ([("one", 0.5)], "a model is .*; expected a path"),
        ([("one", {}, 3)], "a model is .*; expected a path"),
        ([None], "a model is None"),
    ],
)
def test_models_that_are_no_list_of_paths(models: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge_plan("linear", models)


def test_a_seed_is_a_whole_number() -> None:
    assert merge_plan("linear", ["one"], seed=np.int64(3)).seed == 3  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed is None"):
        merge_plan("linear", ["one"], seed=None)  # type: ignore[arg-type]
