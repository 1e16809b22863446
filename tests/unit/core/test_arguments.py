"""Arguments: what counts as a number, a whole number, a delta."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from dtheta.core.arguments import coefficient, is_number, listed, number, one_delta, positive, require_flag, whole
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, NonFinite


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.int64(2), Fraction(2), torch.tensor(2), torch.tensor([2.0])]
)
def test_numbers_of_all_kinds(value: Any) -> None:
    assert is_number(value) and number(value, "it") == 2.0


@pytest.mark.parametrize("value", ["2", None, 2j, [2], torch.tensor([1.0, 2.0]), np.ones(3)])
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)
    with pytest.raises(ConfigError, match=r"^alpha is .*expected a number"):
        number(value, "alpha")


def test_a_tensor_that_wants_a_gradient_is_a_number_but_no_coefficient() -> None:
    value = torch.tensor(2.0, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert number(value, "a loss") == 2.0
    with pytest.raises(ConfigError, match="alpha is a tensor that requires a gradient"):
        coefficient(value, "alpha")
    with torch.no_grad():
        assert coefficient(value, "alpha") == coefficient(value.detach(), "alpha") == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400])
def test_what_is_not_finite(value: Any) -> None:
    with pytest.raises(NonFinite, match="expected a finite number"):
        number(value, "alpha")


def test_positive_numbers() -> None:
    assert positive(np.float32(0.5), "drag") == 0.5
    with pytest.raises(ConfigError, match="drag must be positive, got 0"):
        positive(0, "drag")
    with pytest.raises(NonFinite, match="drag is inf"):
        positive(math.inf, "drag")


def test_whole_numbers() -> None:
    assert whole(np.int64(3), "seed") == 3 and type(whole(np.int64(3), "seed")) is int and whole(-3, "seed") == -3
    for value in (None, 1.0, "1", True):
        with pytest.raises(ConfigError, match=r"^seed is .*; expected a whole number$"):
            whole(value, "seed")
    with pytest.raises(ConfigError, match="budget is 0; expected a whole number, 1 or more"):
        whole(0, "budget", 1)


def test_deltas() -> None:
    one = Delta({"w": Dense(torch.ones(2))})
    assert one_delta(one) is one and listed(one) == [one] and listed(d for d in (one, one)) == [one, one]
    for wrong, message in (
        ([], "at least one delta"),
        ("a.delta", "'a.delta' is no delta"),
        (None, "None is no delta"),
    ):
        with pytest.raises(ConfigError, match=message):
            listed(wrong)
    with pytest.raises(ConfigError, match=r"item 1 is a PosixPath|item 1 is a str"):
        listed([one, "a.delta"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="a list was given; expected one delta"):
        one_delta([one])


@pytest.mark.parametrize("value", [True, False, np.bool_(True)])
def test_flags(value: Any) -> None:
    require_flag(value, "strict")


@pytest.mark.parametrize("value", ["no", "", 0, 1.0, None, ["head"]])
def test_what_is_no_flag(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^strict is .*expected True or False; a hint$"):
        require_flag(value, "strict", "; a hint")
