"""The record: names, JSON and back, and everything that is no coefficient."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.compose.coefficients import Coefficients, blocks, changed
from dtheta.compose.report import Epoch, Report
from dtheta.errors import ConfigError, FormatError, NonFinite, ShapeMismatch, UnknownParameter
from tests.unit.compose.examples import delta, normal


def record(parts: int = 1) -> Coefficients:
    values = normal(2, 3, parts).double() / 3
    return Coefficients(("a" * 64, "b" * 64), ("x", "y", "z"), values, 5 if parts > 1 else None)


@pytest.mark.parametrize("parts", [1, 4])
def test_json_and_back_is_the_same_record_to_the_bit(parts: int) -> None:
    one = record(parts)
    text = json.dumps(one.to_settings())
    again = Coefficients.from_settings(json.loads(text))
    assert again == one and hash(again) == hash(one) and torch.equal(again.values, one.values)
    assert json.dumps(again.to_settings()) == text


def test_a_report_is_no_part_of_the_identity() -> None:
    one = record()
    told = Coefficients(one.deltas, one.parameters, one.values, report=Report((Epoch(0),), 0))
    assert told == one and "report" not in told.to_settings()


def test_values_are_a_copy_and_read_by_name() -> None:
    values = torch.zeros(1, 2, 1)
    one = Coefficients(("a",), ("x", "y"), values)
    values += 1
    assert one.of(0, "y").tolist() == [0.0] and one.of_delta(0) == {"x": 0.0, "y": 0.0}
    with pytest.raises(UnknownParameter, match="did you mean 'x'"):
        Coefficients(("a",), ("x1", "x"), values).of(0, "x2")


def test_zeros_name_blocks_in_order_of_appearance(tiny_mlp: nn.Module) -> None:
    a, b = delta(tiny_mlp, names=["2.bias", "0.weight"]), delta(tiny_mlp, index=1, names=["2.weight", "0.weight"])
    assert blocks([a, b]) == ("2.bias", "0.weight", "2.weight")
    assert changed([a, b], blocks([a, b])).tolist() == [[True, True, False], [False, True, True]]
    zeros = Coefficients.zeros([a, b], parts=3, seed=1)
    assert zeros.values.shape == (2, 3, 3) and not zeros.values.any() and zeros.deltas == (a.digest, b.digest)


def test_what_cannot_be_coefficients() -> None:
    with pytest.raises(ShapeMismatch, match=r"expected \(1, 1, K\)"):
        Coefficients(("a",), ("x",), torch.zeros(1, 2, 1))
    with pytest.raises(NonFinite, match="delta 0 for x"):
        Coefficients(("a",), ("x",), torch.full((1, 1, 1), float("nan")))
    with pytest.raises(ConfigError, match="seed"):
        Coefficients(("a",), ("x",), torch.zeros(1, 1, 2))
    with pytest.raises(ConfigError, match="twice"):
        Coefficients(("a",), ("x", "x"), torch.zeros(1, 2, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("values", [[1.0, 2.0]]), ("values", [[1.0, 2.0, "3"], [1.0, 2.0, 3.0]]), ("values", 3.0), ("parts", 0),
        ("parts", True), ("seed", 1.5), ("deltas", ["a", 1]), ("parameters", ["x", "x", "z"]), ("parts", 2),
        ("values", [[1.0, 2.0, float("inf")], [1.0, 2.0, 3.0]]),
    ],
)  # fmt: skip
def test_damaged_settings_are_refused(field: str, value: Any) -> None:
    settings = {**record().to_settings(), field: value}
    with pytest.raises(FormatError):
        Coefficients.from_settings(settings)


def test_missing_and_unknown_fields_are_refused() -> None:
    settings = record().to_settings()
    with pytest.raises(FormatError, match="described by"):
        Coefficients.from_settings({**settings, "more": 1})
    del settings["seed"]
    with pytest.raises(FormatError, match="described by"):
        Coefficients.from_settings(settings)
