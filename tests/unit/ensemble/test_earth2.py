"""Stand-ins with the signatures of earth2studio: a network, a perturbation and an output."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.sphere import Grid
from dtheta.ensemble.bred import BredVectors
from dtheta.ensemble.earth2 import Earth2Perturbation, Earth2Step, ForEarth2, write_earth2
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.noise import SphericalNoise, WhiteNoise
from dtheta.errors import ConfigError, ShapeMismatch

LAT, LON = np.linspace(60, -60, 4), np.arange(8) * 45.0
STATE = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


class Prognostic:
    """Adds the hour of the valid time to one variable and doubles the other; strict about its axes."""

    def __init__(self, leads: int = 1, made: tuple[str, ...] = ("tp", "z500", "t2m"), ahead: int = 1) -> None:
        self.leads, self.made, self.ahead = leads, made, ahead

    def input_coords(self) -> OrderedDict[str, np.ndarray]:
        leads = np.array([np.timedelta64(-6 * i, "h") for i in range(self.leads - 1, -1, -1)])
        return OrderedDict(
            batch=np.empty(0), time=np.empty(0), lead_time=leads, variable=np.array(["t2m", "z500"]), lat=LAT, lon=LON
        )

    def output_coords(self, input_coords: Any) -> OrderedDict[str, np.ndarray]:
        assert list(input_coords) == ["batch", "time", "lead_time", "variable", "lat", "lon"]
        found = input_coords.copy()
        found["lead_time"] = np.array([input_coords["lead_time"][-1] + np.timedelta64(6 * (i + 1), "h")
                                       for i in range(self.ahead)])  # fmt: skip
        found["variable"] = np.array(self.made)
        return found

    def __call__(self, x: Tensor, coords: Any) -> tuple[Tensor, Any]:
        assert x.shape == tuple(len(axis) for axis in coords.values())
        valid = coords["time"][0] + coords["lead_time"][-1]
        hour = int(valid.astype("datetime64[h]").astype(int) % 24)
        t2m, z500 = x[:, :, -1:, 0] + hour, 2 * x[:, :, -1:, 1]
        if self.leads == 2:
            z500 = x[:, :, -1:, 1] + x[:, :, :1, 1]
        found = {"t2m": t2m, "z500": z500, "tp": torch.zeros_like(t2m)}
        return torch.stack([found[name] for name in self.made], 3), self.output_coords(coords)


class Perturbation:
    """Normal numbers from the global generator."""

    def __call__(self, x: Tensor, coords: Any) -> tuple[Tensor, Any]:
        assert x.shape == tuple(len(axis) for axis in coords.values())
        return x + torch.randn_like(x), coords


class Output:
    """Keeps what it is given, on the axes that were announced."""

    def add_array(self, coords: Any, names: Any) -> None:
        self.coords = coords
        self.arrays = {name: torch.full([len(axis) for axis in coords.values()], torch.nan) for name in names}

    def write(self, x: Any, coords: Any, names: Any) -> None:
        places = [np.searchsorted(self.coords[axis], coords[axis]) for axis in ("ensemble", "time", "lead_time")]
        for values, name in zip(x, names, strict=True):
            assert values.shape == tuple(len(axis) for axis in coords.values())
            self.arrays[name][np.ix_(*places)] = values


def test_a_network_is_a_step_that_is_told_the_time() -> None:
    step = Earth2Step(Prognostic())
    assert step.hours == 6 and step.variables == ["t2m", "z500"]
    x = dict(Ensemble(step, 3).run(STATE, 3, time="2020-01-01T12"))[3]
    assert torch.allclose(x[1, 0], STATE[0] + 12 + 18 + 0)
    assert torch.equal(x[1, 1], 8 * STATE[1])


def test_a_network_that_reads_two_leads_moves_its_window() -> None:
    state = torch.stack((STATE, STATE))
    x = dict(Ensemble(Earth2Step(Prognostic(leads=2)), 2).run(state, 3, time="2020-01-01"))[3]
    assert torch.allclose(x[0, :, 1], torch.stack((3 * STATE[1], 5 * STATE[1])))  # Fibonacci


def test_breeding_works_with_such_a_network() -> None:
    found = Ensemble(Earth2Step(Prognostic()), 4, perturbation=BredVectors(0.1, WhiteNoise(0.1), cycles=2))
    x = next(found.run(STATE, [0], past=torch.stack((STATE, STATE)), time="2020-01-01"))[1]
    assert torch.allclose((x - STATE).square().mean((2, 3)).sqrt(), torch.full((4, 2), 0.1), atol=1e-5)


def test_a_perturbation_is_keyed_by_the_member_and_leaves_the_global_generator() -> None:
    step = Earth2Step(Prognostic())
    before = torch.get_rng_state()
    found = Ensemble(step, 5, perturbation=Earth2Perturbation(Perturbation(), step))
    whole = next(found.run(STATE, [0], time="2020-01-01"))[1]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(next(found.replay(3, STATE, [0], time="2020-01-01"))[1], whole[3])
    assert len({tuple(x.flatten().tolist()) for x in whole}) == 5


def test_a_noise_of_ours_perturbs_there_with_keys() -> None:
    ours = ForEarth2(SphericalNoise(1.0, Grid(4, 8)), seed=1)
    days = np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")
    now = np.array([np.timedelta64(0)])
    coords = OrderedDict(
        ensemble=np.arange(3), time=days, lead_time=now, variable=np.array(["a", "b"]), lat=LAT, lon=LON
    )
    x = torch.zeros(3, 2, 1, 2, 4, 8)
    found, axes = ours(x, coords)
    assert axes is coords and len({tuple(v.flatten().tolist()) for v in found.flatten(0, 3)}) == 12
    last, _ = ours(x[2:], coords | {"ensemble": np.array([2])})
    assert torch.equal(last[0], found[2])
    with pytest.raises(ConfigError, match="expected a noise"):
        ForEarth2(BredVectors(0.1, WhiteNoise(0.1)))


def test_a_run_is_written_to_an_output() -> None:
    io, found = Output(), Ensemble(Earth2Step(Prognostic()), 3, perturbation=WhiteNoise(1.0))
    write_earth2(io, found, STATE, [0, 2], time="2020-01-01", variables=["t2m", "z500"], lat=LAT, lon=LON)
    x = dict(found.run(STATE, 2, time="2020-01-01"))
    assert torch.equal(io.arrays["z500"][:, 0, 1], x[2][:, 1]) and torch.equal(io.arrays["t2m"][:, 0, 0], x[0][:, 0])
    assert list(io.coords["lead_time"] / np.timedelta64(1, "h")) == [0, 12]
    with pytest.raises(ShapeMismatch, match="say"):
        write_earth2(io, found, STATE, 1, time="2020-01-01", variables=["t2m"], lat=LAT, lon=LON)
    with pytest.raises(ConfigError, match="needs the date"):
        write_earth2(io, found, STATE, 1, time=0, variables=["t2m", "z500"], lat=LAT, lon=LON)


def test_networks_that_are_no_step_are_refused() -> None:
    with pytest.raises(ConfigError, match="predicts 2 leads at once"):
        Earth2Step(Prognostic(ahead=2))
    with pytest.raises(ConfigError, match="reads 't2m' and does not predict it"):
        next(Ensemble(Earth2Step(Prognostic(made=("z500",))), 1).run(STATE, [1], time="2020-01-01"))
    with pytest.raises(ConfigError, match="takes the time"):
        next(Ensemble(Earth2Step(Prognostic()), 1).run(STATE, [1]))
