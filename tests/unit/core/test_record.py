"""Records come back as what they were, or are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from dtheta.core.record import decode, record_of
from dtheta.errors import ConfigError, FormatError
from dtheta.probe.value_vector import ValueVector


@dataclass(frozen=True)
class Inner:
    value: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class Outer:
    vector: ValueVector
    inner: Inner | None
    rows: tuple[Inner, ...]
    table: Mapping[str, Inner]
    settings: Mapping[str, Any]
    flag: bool


WHOLE = Outer(
    ValueVector(29, 864, -1), Inner(1.5, ("a",)), (Inner(2.0, ()),), {"x": Inner(-0.0, ("b", "c"))}, {"n": [1]}, True
)


@pytest.mark.parametrize("value", [WHOLE, Outer(ValueVector(0, 0), None, (), {}, {}, False)])
def test_what_json_holds_comes_back(value: Outer) -> None:
    assert decode(json.loads(json.dumps(record_of(value))), Outer, "Outer", complete=True) == value


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("flag", 1, r"Outer\.flag"),
        ("inner", {"value": "x", "words": []}, r"Outer\.inner\.value"),
        ("inner", {"value": True, "words": []}, r"Outer\.inner\.value"),
        ("inner", {"value": 1.0}, "words"),
        ("rows", "ab", r"Outer\.rows"),
        ("table", [], r"Outer\.table"),
        ("vector", 3, r"Outer\.vector"),
        ("more", 1, "more"),
    ],
)
def test_what_is_damaged_is_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        decode(record_of(WHOLE) | {key: value}, Outer, "Outer", complete=True)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises((FormatError, ConfigError), match="29/864"):
        decode(record_of(WHOLE) | {"vector": "29-864"}, Outer, "Outer", complete=True)
