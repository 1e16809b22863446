"""Fields: plain numbers from numpy's, and refusals that name class, field, type and value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch

from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.fields import finite_number, plain, settle_fields, spelled
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Decimal


@pytest.mark.parametrize(
    "method",
    [
        LoRA(rank=np.int64(2), alpha=np.float32(4), dropout=np.float64(0.5)),
        PiSSA(rank=np.uint8(2), accuracy=np.float64(1e-3)),
        SORSA(rank=np.int32(2), gamma=np.float16(0.5), alpha=np.int64(3)),
        CLIPSVD(ratio=np.float32(0.5)),
    ],
    ids=repr,
)
def test_numbers_of_numpy_become_plain_ones(method):
    record = method.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert {type(value) for value in record.values()} <= {str, int, float, bool, type(None)}
    assert type(record.get("rank", 2)) is int


def test_plain_numbers_stay_the_objects_they_are():
    assert type(PiSSA(alpha=2).alpha) is int
    assert LoRA(alpha=None).alpha is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoRA(rank=2.0), "LoRA: rank must be int, found 2.0"),
        (lambda: PiSSA(rank=True), "PiSSA: rank must be int, found True"),
        (lambda: SORSA(rank="2"), "SORSA: rank must be int, found '2'"),
        (lambda: LoRA(rank=None), "LoRA: rank must be int, found None"),
        (lambda: LoRA(rank=torch.tensor(2)), "LoRA: rank must be int, found tensor"),
        (lambda: LoRA(alpha="4"), r"LoRA: alpha must be float \| None, found '4'"),
        (lambda: PiSSA(alpha=True), r"PiSSA: alpha must be float \| None, found True"),
        (lambda: LoRA(dropout=None), "LoRA: dropout must be float, found None"),
        (lambda: LoRA(rslora=1), "LoRA: rslora must be bool, found 1"),
        (lambda: SORSA(gamma=1j), "SORSA: gamma must be float, found 1j"),
        (lambda: CLIPSVD("0.5"), "CLIPSVD: ratio must be float, found '0.5'"),
    ],
)
def test_values_of_another_type_are_refused_on_construction(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@dataclass(frozen=True)
class Outside(Method):
    """A method of another package."""

    layers: tuple[int, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    kind: Literal["a", 1] = "a"
    free: object = None


def test_tuples_literals_and_open_types():
    made = Outside([np.int64(1), 2], (np.int16(3), 4), 1, {"any": "thing"})  # type: ignore[arg-type]
    assert (made.layers, made.pair, made.kind, made.free) == ((1, 2), (3, 4), 1, {"any": "thing"})
    assert [type(layer) for layer in made.layers] == [int, int]
    for fields in ({"layers": (1, "2")}, {"layers": 3}, {"pair": (1, 2, 3)}, {"kind": True}, {"kind": "b"}):
        with pytest.raises(ConfigError, match=f"Outside: {next(iter(fields))} must be"):
            Outside(**fields)


def test_a_type_that_is_not_there_at_run_time_is_named():
    @dataclass(frozen=True)
    class Unknown:
        value: Decimal

    with pytest.raises(ConfigError, match="Unknown: name 'Decimal' is not defined"):
        settle_fields(Unknown(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True, 1j, torch.tensor(1.0)])
def test_what_is_no_finite_number(value):
    with pytest.raises(ConfigError, match="share must be a finite number, found"):
        finite_number(value, "share")


def test_finite_numbers_and_spelling():
    assert [finite_number(v, "share") for v in (2, np.float32(0.5), np.int8(-1))] == [2.0, 0.5, -1.0]
    assert type(plain(np.int64(7), int, "seed")) is int
    assert (spelled(int), spelled(float | None), spelled(Literal["a"])) == ("int", "float | None", "Literal['a']")
    assert spelled(tuple[int, ...]) == "tuple[int, ...]"
