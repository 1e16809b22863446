"""Recipes: the defaults of the paper, and fields that cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from dtheta.compose.recipe import RECIPES, Recipe, recipe_of
from dtheta.errors import ConfigError


def test_defaults_are_those_of_the_paper() -> None:
    assert RECIPES["addition"] == Recipe(20, 1e-3, 0.1, 1.0, "constant")
    assert RECIPES["few-shot"] == Recipe(10, 1e-1, 0.1, 1.0, "cosine", shortest=10)
    assert RECIPES["adaptation"] == Recipe(10, 1e-3, 0.1, 1.0, "constant")


def test_fields_are_changed_by_name() -> None:
    assert recipe_of("few-shot", {"epochs": 3, "clip": None}) == Recipe(3, 0.1, 0.1, None, "cosine", shortest=10)
    assert recipe_of(Recipe(epochs=2), {"lr": 0.5}) == Recipe(epochs=2, lr=0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0}, {"epochs": 1.5}, {"accumulation": True}, {"lr": -1.0}, {"lr": float("nan")}, {"clip": 0.0},
        {"schedule": "sine"}, {"order": 3}, {"penalty": float("inf")}, {"weight_decay": -0.1}, {"shortest": 0},
        {"lr": "0.1"}, {"penalty": None}, {"clip": "1"},
    ],
)  # fmt: skip
def test_values_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        recipe_of("addition", changes)


def test_unknown_names_say_what_is_meant() -> None:
    with pytest.raises(ConfigError, match="did you mean 'few-shot'"):
        recipe_of("fewshot", {})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        recipe_of("addition", {"epoch": 3})


def test_a_recipe_has_a_name() -> None:
    for recipe in (None, ["addition"]):
        with pytest.raises(ConfigError, match=r"unknown recipe .*; expected one of addition"):
            recipe_of(recipe, {})  # type: ignore[arg-type]
