"""JSON files: what is written comes back, and what is damaged is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dtheta.core.jsonfile import json_digest, read_json, write_json
from dtheta.errors import ConfigError, FormatError, NonFinite, OutputError


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    document: dict[str, Any] = {"é": [1, 0.1, None, True, "x\n"], "empty": {}}
    place = tmp_path / "a.json"
    assert write_json(document, place) == place and read_json(place) == document
    assert (
        place.read_text(encoding="utf-8")
        == '{\n "é": [\n  1,\n  0.1,\n  null,\n  true,\n  "x\\n"\n ],\n "empty": {}\n}\n'
    )
    write_json([], str(place), indent=2)
    assert read_json(str(place)) == []


def test_half_a_surrogate_pair_comes_back(tmp_path: Path) -> None:
    document = {"a name\udcff": "\ud83d\U0001f600"}
    assert read_json(write_json(document, tmp_path / "a.json")) == document
    (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_say_is_not_written(tmp_path: Path, value: float) -> None:
    place = write_json({"a": 1}, tmp_path / "a.json")
    with pytest.raises(NonFinite, match=r"a\.json: a number in it is NaN or infinite"):
        write_json({"a": value}, place)
    assert read_json(place) == {"a": 1} and list(tmp_path.iterdir()) == [place]
    with pytest.raises(OutputError, match="there is no folder"):
        write_json({}, tmp_path / "none" / "a.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (b'{"a": NaN}', "not a finite number"),
     (b'{"a": 1, "a": 2}', "a key occurs twice"), (b"[" * 100_000, "nested too deeply")],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    place = tmp_path / "a.json"
    place.write_bytes(content)
    with pytest.raises(FormatError, match=rf"a\.json .*{said}"):
        read_json(place)
    with pytest.raises(FormatError, match="cannot be read"):
        read_json(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'a\.json'"):
        read_json(tmp_path / "b.json")


def test_a_digest_is_of_the_content_and_not_of_its_order() -> None:
    one = json_digest({"a": [1, "ü"], "b": None})
    assert one == json_digest({"b": None, "a": [1, "ü"]}) and len(one) == 64
    assert one != json_digest({"a": ["ü", 1], "b": None})
