"""A report: its verdict, and that a file gives back what was saved."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dtheta.errors import ConfigError, FormatError, OutputError
from dtheta.probe.erasure.paraphrase import Paraphrase
from dtheta.probe.erasure.persona import Persona
from dtheta.probe.erasure.result import Erasure, load_erasure
from dtheta.probe.unlearning.watch import Checkup
from dtheta.score.interval import Interval
from tests.unit.probe.erasure.examined import VECTORS, examination, gone, hidden, nothing, ruined
from tests.unit.probe.planted import network

MADE = {"nothing": nothing, "gone": gone, "hidden": hidden, "ruined": ruined}


@cache
def reported(name: str) -> Erasure:
    model = network()
    examined = examination(model, attacks=(Paraphrase(), Persona()))
    return examined.report(MADE[name](model), VECTORS, checkups=[Checkup(1.0, 1.0, 1.0, 0.0)])


@pytest.mark.parametrize(
    ("name", "erased", "said"),
    [
        ("nothing", False, "still known"),
        ("gone", True, "gone by every measure"),
        ("hidden", False, "hidden, not gone: it fails traces"),
        ("ruined", False, "the model was damaged"),
    ],
)
def test_verdicts(name: str, erased: bool, said: str) -> None:
    found = reported(name)
    assert found.erased is erased and said in found.verdict and found.verdict.startswith("france")


def test_goals_are_those_that_can_be_told() -> None:
    names = [one.name for one in reported("gone").goals]
    assert names == ["target", "unrelated", "attack: paraphrase", "attack: persona", "traces"]
    assert [one.name for one in reported("nothing").goals] == ["target", "unrelated", "traces"]  # nothing to recover


def test_an_attack_that_brings_it_back_is_told() -> None:
    found = reported("gone")
    back = replace(found.attacks[0], recovery=Interval(0.8, 0.5, 1.0))
    assert replace(found, attacks=(back,)).verdict == "france is hidden, not gone: it fails attack: paraphrase."


@pytest.mark.parametrize("name", MADE)
def test_a_file_gives_back_what_was_saved(name: str, tmp_path: Path) -> None:
    found = reported(name)
    assert load_erasure(found.save(tmp_path / "a.json")) == found
    assert json.loads((tmp_path / "a.json").read_text())["verdict"] == found.verdict


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = reported("gone").save(tmp_path / "a.json")
    record = json.loads(path.read_text())
    for broken in ({}, [], record | {"format": "x"}, record | {"intrinsic": None}, record | {"known": 1}):
        path.write_text(json.dumps(broken))
        with pytest.raises(FormatError, match=r"a\.json"):
            load_erasure(path)
    path.write_text("{")
    with pytest.raises(FormatError):
        load_erasure(path)
    with pytest.raises(ConfigError):
        load_erasure(tmp_path / "b.json")
    with pytest.raises(FormatError, match="cannot be read"):
        load_erasure(tmp_path)
    with pytest.raises(OutputError):
        reported("gone").save(tmp_path / "none" / "a.json")


def test_attacks_are_found_by_name() -> None:
    found = reported("gone")
    assert found.attack("persona") is found.attacks[1] and found.attack("relearning") is None
