"""Trajectories in the cache: computed once, keyed by all that decides them, and whole or not there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.data.flows.trajectories import trajectories
from dtheta.errors import ConfigError

FLOW = QuasiGeostrophic(truncation=5)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path))
    return tmp_path / "flows"


def test_they_are_the_runs_of_the_flow(cache: Path) -> None:
    states = trajectories(FLOW, 2, 3, seed=4, spin_up=1)
    assert states.shape == (2, 4, 2, *FLOW.grid.shape) and states.dtype == torch.float32
    expected = FLOW.run(FLOW.spin_up(2, 4, steps=1), 3).transpose(0, 1)
    assert torch.equal(states, expected)
    (folder,) = [p for p in cache.iterdir() if p.is_dir()]
    assert folder.name.startswith("QuasiGeostrophic-")


def test_they_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trajectories(FLOW, 1, 2, spin_up=1)
    monkeypatch.setattr(QuasiGeostrophic, "step", lambda *_: pytest.fail("computed again"))
    assert torch.equal(trajectories(FLOW, 1, 2, spin_up=1), first)


def test_whatever_decides_them_is_in_the_key(cache: Path) -> None:
    trajectories(FLOW, 1, 1, spin_up=0)
    for more in ({"members": 2}, {"steps": 2}, {"seed": 1}, {"spin_up": 1}):
        trajectories(**({"flow": FLOW, "members": 1, "steps": 1, "spin_up": 0} | more))
    trajectories(dataclasses.replace(FLOW, drag=4.0), 1, 1, spin_up=0)
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 6


def test_writing_to_them_does_not_reach_the_file() -> None:
    trajectories(FLOW, 1, 1, spin_up=0)[0, 0] = 7
    assert not (trajectories(FLOW, 1, 1, spin_up=0)[0, 0] == 7).any()


def test_a_failure_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(QuasiGeostrophic, "step", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            trajectories(FLOW, 1, 2, spin_up=0)
    assert not [p for p in cache.iterdir() if p.is_dir()]
    assert trajectories(FLOW, 1, 2, spin_up=0).shape[1] == 3


def test_other_flows_have_them_too() -> None:
    assert trajectories(Lorenz96(), 2, 5).shape == (2, 6, 40)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="members is 0"):
        trajectories(FLOW, 0, 1)
