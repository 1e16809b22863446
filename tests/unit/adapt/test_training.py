"""What recipes share: the model's own dropout comes back, and the settings of a recipe are those a file has kept."""

from __future__ import annotations

import pytest
from torch import nn

from dtheta.adapt.few_shot import FewShot
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.recipe import RATES, Recipe
from dtheta.adapt.training import Training, dropout_as
from dtheta.errors import ConfigError


def test_dropout_is_given_back(tiny_bert: nn.Module) -> None:
    layers = [m for m in tiny_bert.modules() if isinstance(m, nn.Dropout)]
    layers[0].p = 0.3
    with dropout_as(tiny_bert, False):
        assert all(layer.p == 0.0 for layer in layers)
    assert layers[0].p == 0.3
    with pytest.raises(ZeroDivisionError), dropout_as(tiny_bert, False):
        raise ZeroDivisionError
    assert layers[0].p == 0.3
    with dropout_as(tiny_bert, True):
        assert layers[0].p == 0.3


def test_settings_of_a_recipe() -> None:
    shared = {"select": None, "steps": 60, "lr": 0.1, "warmup": 0.1, "weight_decay": 0.0, "validate": 0}
    texts = {"batch_size": 16, "head": "probe", "head_C": 0.1, "head_lr": 1e-3, "dropout": False, "max_length": 64}
    assert Recipe(LoRA(rank=2), lr=0.1, seed=3).settings() == {**shared, **texts}
    images = {"batch_size": 32, "augment": False, "flip": True}
    assert FewShot(LoRA(rank=2), lr=0.1, seed=3).settings() == {**shared, **images}


def test_rates_by_method() -> None:
    assert Recipe(PiSSA(rank=2)).rate == RATES["PiSSA"]
    assert FewShot(PiSSA(rank=2)).rate == 1e-3
    assert FewShot(LoRA(rank=2)).rate == 3e-3


@pytest.mark.parametrize("recipe", [Recipe, FewShot])
@pytest.mark.parametrize(
    ("field", "value"), [("lr", 0.0), ("lr", float("nan")), ("validate", -1), ("steps", 0), ("batch_size", 0)]
)
def test_numbers_that_cannot_be_meant(recipe: type[Training], field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        recipe(LoRA(rank=2), **{field: value})  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Recipe, FewShot])
def test_a_name_is_no_method(kind: type) -> None:
    with pytest.raises(ConfigError, match="method must be a method, such as dt"):
        kind("LoRA")
