"""``dtheta ensemble`` with a network and data of one's own: files with named channels, and all that may not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dtheta as dt
from dtheta.cli import ensemble_climate
from dtheta.cli.ensemble_files import States, read_states
from dtheta.core.sphere import Grid
from dtheta.ensemble.hindcast import Hindcast
from dtheta.errors import NonFinite
from tests.cli.conftest import Outcome

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")
Run = Callable[..., Outcome]
GRID = Grid(6, 12)

NET = '''
import torch

class Net(torch.nn.Module):
    """Waves that move eastward and decay to a mean."""
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor([0.98, 0.95]))
    def forward(self, x):
        return self.gain[:, None, None] * x.roll(1, -1)

net = Net()
def heavy(x):
    return net(x)
heavy.channels, heavy.units, heavy.hours = ("z", "t"), {"z": "m", "t": "K"}, 6.0
wrong_shape = lambda x: x[:, :1]
blows_up = lambda x: x * float("inf")
bf16 = torch.nn.Linear(12, 12).bfloat16()
def later(x):
    raise KeyError("what is not there")
def timed(x):
    return x
timed.hours = "six"
'''


def weather(times: int = 40, seed: int = 0) -> Any:
    """A data set that the network forecasts well: its own steps, and noise."""
    noise = torch.Generator().manual_seed(seed)
    gain = torch.tensor([0.98, 0.95])[:, None, None]
    states = [torch.randn(2, 6, 12, generator=noise)]
    for _ in range(times - 1):
        states.append(gain * states[-1].roll(1, -1) + 0.2 * torch.randn(2, 6, 12, generator=noise))
    values = torch.stack(states).numpy()
    dims = ("time", "latitude", "longitude")
    return xarray.Dataset(
        {"t": (dims, values[:, 1], {"units": "K"}),
         "z": (dims, values[:, 0], {"units": "m", "standard_name": "geopotential_height"})},
        {"time": np.datetime64("2020-01-01", "ns") + np.arange(times) * np.timedelta64(6, "h"),
         "latitude": GRID.latitudes, "longitude": GRID.longitudes},
    )  # fmt: skip


@pytest.fixture
def here(dtheta: Run) -> Path:
    """A folder with a network and analyses."""
    Path("net.py").write_text(NET)
    weather().to_zarr("w.zarr")
    return Path()


GIVEN = ("--analyses", "w.zarr", "--truth", "w.zarr", "--members", 4, "--days", 1, "--starts", 3, "--quiet")


def test_ones_own_network_on_ones_own_data(dtheta: Run, here: Path) -> None:
    more = ("--climate", "w.zarr", "--channels", "z,t", "--pairs")
    done = dtheta("ensemble", "run", "--step", "net.py:net", *GIVEN, *more, "--json")
    assert done.code == 0, done.err
    found = Hindcast("run.zarr")
    assert found.names == ["z", "t"] and found.units == {"z": "m", "t": "K"} and found.grid == GRID
    assert done.json["starts"][-1] == "2020-01-09T18:00:00"  # the last whose leads are all in the truth
    data, truth = weather(), found.truth(2)
    assert truth is not None
    assert np.array_equal(truth[:, 0].numpy(), data["z"].values[35:40])
    assert np.array_equal(found.analyses(2)[0][1].numpy(), data["t"].values[35])
    settings = found.archive(0).record["ensemble"]["perturbation"]
    assert settings["name"] == "BredVectors" and settings["rescaling"][0]["name"] == "HemisphericRescaling"
    scored = dtheta(
        "ensemble", "verify", "run.zarr", "--report", "p.html", "--region", "north=0:90", "--point", "40,350",
        "--resamples", 20, "--json",
    )  # fmt: skip
    assert scored.code == 0, scored.err
    assert {s["region"] for s in scored.json["scores"]} == {"global", "north"}
    assert {s["unit"] for s in scored.json["scores"] if s["metric"] == "rmse"} == {"m", "K"}
    page = Path("p.html").read_text()
    assert "Maps of one start" in page and "2020-01" in page and "z, 41°N 0°E" in page
    assert dtheta("ensemble", "replay", "run.zarr", "--member", 3, "--start", 2).code == 0
    forecast = xarray.open_zarr("run.zarr", group="starts/0002", consolidated=False, decode_timedelta=False)
    assert forecast["t"].dims == ("realization", "forecast_period", "latitude", "longitude")
    assert str(forecast["time"].values[-1]).startswith("2020-01-10T18") and forecast["z"].units == "m"


def test_a_step_says_its_channels_units_and_hours_itself(dtheta: Run, here: Path) -> None:
    done = dtheta("ensemble", "run", "--step", "net.py:heavy", *GIVEN, "--json")
    assert done.code == 0, done.err
    assert Hindcast("run.zarr").names == ["z", "t"] and done.json["hours"] == 6
    without = dtheta("ensemble", "verify", "run.zarr", "--efi", "--out", "x.json")
    assert without.code == 2 and "--efi compares with a climate" in without.err and not Path("x.json").exists()
    for more in ((), ("--dry-run",)):
        without = dtheta("ensemble", "verify", "run.zarr", "--percentile", 95, *more)
        assert without.code == 2 and "--percentile compares with a climate, and the run has none" in without.err
    files = ("--climate", "w.zarr", "--percentile", 90, "--resamples", 5, "--json")
    found = dtheta("ensemble", "verify", "run.zarr", *files).json
    assert {"auc_above_p90"} == {s["metric"] for s in found["scores"] if s["metric"].startswith("auc")}
    inside = dtheta("ensemble", "verify", "run.zarr", "--climate", "w.zarr", "--out", "w.zarr/z/new.json")
    assert inside.code == 1 and "it would lie in w.zarr (--climate)" in inside.err
    inside = dtheta("ensemble", "run", "--step", "net.py:heavy", *GIVEN, "--out", "w.zarr/run.zarr")
    assert inside.code == 1 and "it would lie in w.zarr (--analyses)" in inside.err


def test_an_amplitude_is_the_error_after_two_days_before_the_starts(dtheta: Run, here: Path) -> None:
    start = ("--start", "2020-01-05", "--start", "2020-01-06T12")
    given = ("--analyses", "w.zarr", "--members", 2, "--days", 1, "--quiet", "--channels", "z,t")
    done = dtheta("ensemble", "run", "--step", "net.py:net", *given, *start, "--json")
    assert done.code == 0, done.err
    data = np.stack([weather()[name].values for name in ("z", "t")], 1)
    gain = np.array([0.98, 0.95])[:, None, None]
    pairs = [round((i + 1) * 9 / 8) - 1 for i in range(8)]  # of the nine that end before the first start
    weights = GRID.weights / GRID.weights.sum()
    squares = [(np.roll(data[t] * gain**8, 8, -1) - data[t + 8]) ** 2 for t in pairs]
    errors = np.sqrt(np.mean([(s.mean(-1) * weights).sum(-1) for s in squares], 0))
    assert done.json["amplitude"] == pytest.approx(0.35 * errors, rel=1e-4)
    early = dtheta("ensemble", "run", "--step", "net.py:net", *given, "--start", "2020-01-02", "--out", "b.zarr")
    assert early.code == 2 and "bred(amplitude=...)" in early.err
    own = ("--perturbation", "bred(amplitude=[0.3, 0.1])", "--start", "2020-01-02", "--out", "b.zarr")
    assert dtheta("ensemble", "run", "--step", "net.py:net", *given, *own).code == 0


def test_parameter_sets_are_checkpoints_and_deltas_and_may_move(dtheta: Run, here: Path) -> None:
    import sys

    save_file({"gain": torch.tensor([0.9, 0.9])}, "a.safetensors")
    more = ("--channels", "z,t", "--parameters", "a.safetensors", "--parameters", "b.delta")
    scope: dict[str, Any] = {}
    exec(NET, scope)
    base: nn.Module = scope["Net"]()
    tuned: nn.Module = scope["Net"]()
    with torch.no_grad():
        tuned.gain.mul_(0.5)  # type: ignore[operator,union-attr]
    dt.extract(base, tuned).save("b.delta")
    done = dtheta("ensemble", "run", "--step", "net.py:net", *GIVEN, *more, "--json")
    assert done.code == 0, done.err
    assert done.json["networks"] == 2
    first = torch.stack([x for _, x in Hindcast("run.zarr").archive(0).states()])
    torch.testing.assert_close(first[1, 0], 0.9 * first[0, 0].roll(1, -1))
    torch.testing.assert_close(first[1, 1, 1], 0.475 * first[0, 1, 1].roll(1, -1))
    Path("moved").mkdir()
    Path("a.safetensors").rename("moved/a.safetensors")
    lost = dtheta("ensemble", "replay", "run.zarr", "--member", 1)
    assert lost.code == 2 and "--parameters" in lost.err
    there = ("--parameters", "moved/a.safetensors", "--parameters", "b.delta")
    assert dtheta("ensemble", "replay", "run.zarr", "--member", 1, *there).code == 0
    save_file({"gain": torch.tensor([0.9, 0.8])}, "moved/a.safetensors")
    assert dtheta("ensemble", "replay", "run.zarr", "--member", 1, *there).code == 3
    assert "net" not in sys.modules


def changed(**changes: Callable[[Any], Any]) -> dict[str, Callable[[Any], Any]]:
    return changes


def _hole(data: Any) -> Any:
    values = data["t"].values.copy()
    values[30, 2, 3] = np.nan
    return data.assign(t=(data["t"].dims, values, data["t"].attrs))


def _units(data: Any) -> Any:
    data["t"].attrs["units"] = "degC"
    return data


def _mute(data: Any) -> Any:
    del data["t"].attrs["units"]
    return data


ACTS: dict[str, Callable[[Any], Any]] = {
    "short": lambda d: d.isel(time=slice(0, 8)),
    "hole": _hole,
    "late": lambda d: d.isel(time=[*range(30), *range(31, 40)]),
    "coarse": lambda d: d.isel(longitude=slice(0, None, 2)),
    "flipped": lambda d: d.isel(latitude=slice(None, None, -1)),
    "west": lambda d: d.assign_coords(longitude=(d["longitude"] + 180) % 360 - 180),
    "units": _units,
    "mute": _mute,
    "lacking": lambda d: d[["z"]],
    "unsorted": lambda d: d.isel(time=slice(None, None, -1)),
    "numbered": lambda d: d.assign_coords(time=np.arange(40)),
    "levels": lambda d: d.expand_dims(level=[500, 850]),
    "shuffled": lambda d: d.isel(latitude=[1, 0, 2, 3, 4, 5]),
    "closed": lambda d: d.assign_coords(longitude=np.linspace(0, 360, 12)),
}


@pytest.mark.parametrize(
    ("act", "option", "code", "said"),
    [
        ("short", "--truth", 2, "1 start has 3 analyses before, 6 hours apart, and the truth of all leads"),
        (
            "late",
            "--truth",
            2,
            "has no 2020-01-08T12:00:00, a lead of the start 2020-01-08T00:00:00; nearest: 2020-01-08T06",
        ),
        ("late", "--analyses", 2, "has no 2020-01-08T12:00:00"),
        ("hole", "--truth", 1, "t has 1 gaps (NaN or infinity), the first at 2020-01-08T12:00:00, latitude "),
        ("coarse", "--truth", 1, "states are (2, 6, 6), and in --analyses"),
        ("flipped", "--truth", 1, "the order is reversed"),
        ("west", "--truth", 1, "counted from -180 or from 0"),
        ("units", "--truth", 2, "channel 't': --truth other.zarr is in degC, what it goes with in K; convert one"),
        ("units", "--analyses", 2, "channel 't': --analyses other.zarr is in degC, what it goes with in K"),
        ("mute", "--truth", 2, "t tells no unit, expected K; give it its attribute 'units'"),
        ("lacking", "--truth", 2, "has no channel 't'; it has z"),
        ("unsorted", "--analyses", 2, "expected times that rise"),
        ("numbered", "--analyses", 2, "expected dates"),
        ("levels", "--analyses", 2, "variables have the dimensions level, latitude, longitude; expected latitude and"),
        ("shuffled", "--analyses", 2, "latitudes neither rise nor fall"),
        ("closed", "--analyses", 2, "a meridian is there twice"),
    ],
)
def test_files_that_do_not_fit(dtheta: Run, here: Path, act: str, option: str, code: int, said: str) -> None:
    ACTS[act](weather()).to_zarr("other.zarr")
    files = {"--analyses": "w.zarr", "--truth": "w.zarr"} | {option: "other.zarr"}
    start = () if act == "short" else ("--start", "2020-01-08T00")
    if act == "late" and option == "--analyses":
        start = ("--start", "2020-01-08T12")
    given = [part for pair in files.items() for part in pair]
    done = dtheta("ensemble", "run", "--step", "net.py:heavy", *given, *start, "--members", 2, "--days", 1, "--quiet")
    assert done.code == code, done.err
    assert said in done.err and not list(Path().glob("run*"))


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--step", "net.py:nett"), 2, "did you mean 'net'"),
        (("--step", "net.py:net", "--channels", "z,q"), 2, "has no channel 'q'"),
        (("--step", "net.py:net", "--channels", ","), 2, "names none"),
        (("--step", "net.py:net", "--hours", 0), 2, "--hours is 0"),
        (("--step", "net.py:net", "--analysis-error", 0.1), 2, "--analysis-error is of simulated analyses"),
        (
            ("--step", "net.py:net", "--start", "2031-01-01", "--dry-run"),
            2,
            "which the start 2031-01-01T00:00:00 needs",
        ),
        (("--step", "net.py:net", "--starts", 99, "--dry-run"), 2, "starts have 3 analyses before"),
        (("--step", "net.py:net", "--truth", "lorenz96"), 2, "there is no such file"),
        (("--step", "net.py:net", "--start", "soon"), 2, "expected a date"),
        (("--step", "net.py:net", "--starts", 99), 2, "starts have 3 analyses before"),
        (
            ("--step", "net.py:net", "--hours", 7, "--days", 1.75),
            2,
            "0 starts have 3 analyses before, 7 hours apart",
        ),
        (("--step", "net.py:wrong_shape", "--perturbation", "white(amplitude=1)"), 1, "expected the same shape"),
        (("--step", "net.py:blows_up", "--perturbation", "white(amplitude=1)"), 1, "no longer finite"),
        (
            ("--step", "net.py:bf16"),
            2,
            "the step net.py:bf16 raised RuntimeError: mat1 and mat2 must have the same dtype",
        ),
        (("--step", "net.py:bf16", "--dry-run"), 2, "It is called with states (batch, channels, ...) in float32"),
        (
            ("--step", "net.py:later", "--perturbation", "white(amplitude=1)"),
            2,
            "the step net.py:later raised KeyError: 'what is not there'",
        ),
        (("--step", "net.py:timed"), 2, "the step's attribute 'hours' is 'six'; expected a number"),
        (("--step", "net.py:net", "--perturbation", "bred(amplitude=[1, 2, 3])"), 2, "3 amplitudes for 2 channels"),
        (("--step", "net.py:net", "--perturbation", "random"), 2, "give --climate FILE"),
        (("--step", "net.py:net", "--parameters", "none.safetensors"), 2, "none.safetensors"),
    ],
)
def test_options_that_do_not_fit_the_files(dtheta: Run, here: Path, more: tuple, code: int, said: str) -> None:
    truth = () if "--truth" in more else ("--truth", "w.zarr")
    done = dtheta("ensemble", "run", "--analyses", "w.zarr", *truth, "--days", 1, "--members", 2, *more, "--quiet")
    assert done.code == code, done.err
    assert said in done.err and not Path("run.zarr").exists()
    assert not Path("run.zarr.part").exists() or "run.zarr.part holds what was done before; remove it" in done.err


def test_verify_takes_the_truth_and_the_climate_from_files(dtheta: Run, here: Path) -> None:
    given = (
        "--analyses",
        "w.zarr",
        "--members",
        3,
        "--days",
        1,
        "--start",
        "2020-01-05",
        "--quiet",
        "--channels",
        "z,t",
    )
    assert dtheta("ensemble", "run", "--step", "net.py:net", *given).code == 0
    without = dtheta("ensemble", "verify", "run.zarr")
    assert without.code == 2 and "give --truth FILE" in without.err
    weather().isel(time=slice(0, 18)).to_zarr("short.zarr")
    lacking = dtheta("ensemble", "verify", "run.zarr", "--truth", "short.zarr")
    assert lacking.code == 2 and "has no 2020-01-05T12:00:00, a lead of the start 2020-01-05" in lacking.err
    files = ("--truth", "w.zarr", "--climate", "w.zarr")
    done = dtheta("ensemble", "verify", "run.zarr", *files, "--report", "p.html", "--resamples", 20, "--json")
    assert done.code == 0, done.err
    assert {"acc", "auc_above_p95"} <= {s["metric"] for s in done.json["scores"]}
    rmse = next(s for s in done.json["scores"] if (s["metric"], s["channel"], s["lead"]) == ("rmse", "t", 24))
    mean = torch.stack([x for _, x in Hindcast("run.zarr").archive(0).states()])[-1, :, 1].double().mean(0).numpy()
    squares = ((mean - weather()["t"].values[20]) ** 2).mean(-1) @ (GRID.weights / GRID.weights.sum())
    assert rmse["value"] == pytest.approx(np.sqrt(squares), rel=1e-5)


def read_by_blocks(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> list[tuple[int, ...]]:
    """Let a climate be read so many bytes at a time, and return the shapes that will be."""
    monkeypatch.setattr(ensemble_climate, "BLOCK", nbytes)
    monkeypatch.setattr(ensemble_climate, "_SORTED", 5 * 40)
    real, shapes = States._read, []

    def read(self: States, *given: Any) -> np.ndarray:
        found = real(self, *given)
        shapes.append(found.shape)
        return found

    monkeypatch.setattr(States, "_read", read)
    return shapes


def test_a_climate_is_read_in_blocks(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = read_states(Path("w.zarr"), "--climate", ("z", "t"))
    shapes = read_by_blocks(monkeypatch, 2 * states.bytes_of_rows(1) + 5)
    assert states.bytes_of_rows(1) == 40 * 12 * (4 + 4 + 1)
    found = ensemble_climate.climate_of_file(states)
    assert shapes == [(40, 2, 12)] * 6
    values = np.stack([weather()[name].values for name in ("z", "t")], 1).astype(float)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found.quantiles, np.quantile(values, np.linspace(0, 1, 21), axis=0), rtol=1e-5, atol=1e-6
    )
    shapes.clear()
    more = ("--climate", "w.zarr", "--perturbation", "random", "--channels", "z,t")
    assert dtheta("ensemble", "run", "--step", "net.py:net", *GIVEN, *more).code == 0
    assert shapes.count((40, 2, 12)) == 6
    assert shapes.count((40, 6, 12)) == 2  # the past states that the perturbation is made of
    run = Hindcast("run.zarr")
    climate, past = run.climate(), run.states()
    assert climate is not None and torch.equal(climate.quantiles, found.quantiles)
    assert past is not None and np.array_equal(past[:, 0].numpy(), weather()["z"].values)
    scored = dtheta("ensemble", "verify", "run.zarr", "--climate", "w.zarr", "--resamples", 5)
    assert scored.code == 0, scored.err


def test_a_gap_in_a_block_is_named_by_its_own_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hole(weather()).to_zarr("hole.zarr")
    states = read_states(Path("hole.zarr"), "--climate", ("z", "t"))
    read_by_blocks(monkeypatch, 1)
    with pytest.raises(NonFinite, match=f"2020-01-08T12:00:00, latitude {GRID.latitudes[2]:g}, longitude 90"):
        ensemble_climate.climate_of_file(states)


def test_dry_runs_count_the_climate_and_read_none(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--step", "net.py:heavy", *GIVEN)
    assert dtheta("ensemble", "run", *given).code == 0
    commands = (("run", *given, "--out", "b.zarr"), ("verify", "run.zarr"))
    for command in commands:
        without, with_it = (
            dtheta("ensemble", *command, *more, "--dry-run", "--json") for more in ((), ("--climate", "w.zarr"))
        )
        assert without.code == with_it.code == 0, with_it.err
        whole = 6 * 12 * 40 * (4 + 4 + 1) + ensemble_climate._SORTING
        assert with_it.json["memory"] - without.json["memory"] >= whole
        assert with_it.json["reads"]["w.zarr"] > 40 * 2 * 6 * 12 * 3
    shapes = read_by_blocks(monkeypatch, 10_000)
    assert dtheta("ensemble", "verify", "run.zarr", "--climate", "w.zarr", "--dry-run").code == 0
    assert shapes == []


def test_a_region_has_no_harmonics_and_is_scored_all_the_same(dtheta: Run, here: Path) -> None:
    weather().isel(latitude=slice(1, 4), longitude=slice(2, 9)).to_zarr("region.zarr")
    given = ("--analyses", "region.zarr", "--truth", "region.zarr", "--days", 1, "--members", 2, "--starts", 1)
    done = dtheta("ensemble", "run", "--step", "net.py:heavy", *given, "--quiet")
    assert done.code == 0, done.err
    assert Hindcast("run.zarr").archive(0).record["ensemble"]["perturbation"]["noise"]["name"] == "WhiteNoise"
    scored = dtheta("ensemble", "verify", "run.zarr", "--report", "p.html", "--json")
    assert scored.code == 0, scored.err
    assert "spectrum_mean" not in {s["metric"] for s in scored.json["scores"]}
    run, archive = Hindcast("run.zarr"), Hindcast("run.zarr").archive(0)
    happened = run.truth(0)
    assert happened is not None and run.grid is not None
    rows = np.deg2rad(np.abs(np.diff(GRID.latitudes[1:4])))
    middle = np.deg2rad(GRID.latitudes[1:4])
    edges = np.concatenate([[middle[0] + rows[0] / 2], (middle[1:] + middle[:-1]) / 2, [middle[-1] - rows[-1] / 2]])
    areas = -np.diff(np.sin(edges))
    error = (archive.read(0, 2, 4).double().mean(0) - happened[-1].double()).numpy()[0]
    expected = np.sqrt((error**2).mean(-1) @ areas / areas.sum())
    score = next(s for s in scored.json["scores"] if (s["metric"], s["channel"], s["lead"]) == ("rmse", "z", 24))
    assert score["value"] == pytest.approx(expected, rel=1e-5)
    refused = dtheta(
        "ensemble", "run", "--step", "net.py:heavy", *given, "--perturbation", "spherical", "--out", "b.zarr"
    )
    assert refused.code == 2 and "take white noise here" in refused.err
    twice = dtheta("ensemble", "verify", "run.zarr", "--region", "a=0:90", "--region", "a=-90:0")
    assert twice.code == 2 and "--region: 'a' is there twice" in twice.err


def test_stations_in_another_order_are_refused(dtheta: Run, here: Path) -> None:
    names = [f"s{i}" for i in range(12)]
    flat = weather().isel(latitude=2, drop=True).rename(longitude="station").assign_coords(station=names)
    flat.to_zarr("a.zarr")
    flat.isel(station=[1, 0, *range(2, 12)]).to_zarr("b.zarr")
    given = ("ensemble", "run", "--step", "net.py:heavy", "--members", 2, "--days", 1, "--starts", 1, "--quiet")
    done = dtheta(*given, "--analyses", "a.zarr", "--truth", "b.zarr")
    assert done.code == 1 and "station differ" in done.err and "sort both by station" in done.err
    done = dtheta(*given, "--analyses", "a.zarr", "--truth", "a.zarr", "--perturbation", "white(amplitude=1)")
    assert done.code == 0, done.err


def test_fields_on_other_cells_beside_those_that_are_meant_do_not_matter(dtheta: Run, here: Path) -> None:
    more = weather().assign(u=weather()["z"].expand_dims(level=[500, 850]))
    more.to_zarr("more.zarr")
    given = ("ensemble", "run", "--analyses", "more.zarr", "--days", 1, "--members", 2, "--starts", 1, "--quiet")
    done = dtheta(*given, "--step", "net.py:heavy")
    assert done.code == 0 and Hindcast("run.zarr").names == ["z", "t"], done.err
    done = dtheta(*given, "--step", "net.py:net", "--out", "b.zarr")
    assert done.code == 2 and "lies on the cells" in done.err


def test_a_file_that_is_none_and_a_reader_that_is_not_there(dtheta: Run, here: Path, monkeypatch) -> None:
    import sys

    Path("bad.nc").write_bytes(b"no NetCDF at all")
    Path("empty").mkdir()
    for name in ("bad.nc", "empty"):
        done = dtheta("ensemble", "run", "--step", "net.py:net", "--analyses", name)
        assert done.code == 1 and name in done.err, done.err
    monkeypatch.setitem(sys.modules, "xarray", None)
    done = dtheta("ensemble", "run", "--step", "net.py:net", *GIVEN)
    assert done.code == 1 and "pip install 'dtheta[weather]'" in done.err


def test_a_netcdf_file_is_read_as_a_zarr_folder_is(dtheta: Run, here: Path) -> None:
    pytest.importorskip("scipy")
    weather().to_netcdf("w.nc", engine="scipy")
    for name, out in (("w.zarr", "a.zarr"), ("w.nc", "b.zarr")):
        given = ("--analyses", name, "--truth", name, "--members", 2, "--days", 1, "--starts", 2, "--quiet")
        assert dtheta("ensemble", "run", "--step", "net.py:heavy", *given, "--out", out).code == 0
    states = [torch.stack([x for _, x in Hindcast(out).archive(1).states()]) for out in ("a.zarr", "b.zarr")]
    assert torch.equal(*states)


def test_a_run_does_not_tell_where_files_lay(dtheta: Run, here: Path) -> None:
    given = ("--analyses", Path("w.zarr").resolve(), "--truth", Path("w.zarr").resolve(), "--days", 1, "--starts", 1)
    assert dtheta("ensemble", "run", "--step", "net.py:heavy", *given, "--members", 2, "--quiet").code == 0
    assert str(Path().resolve()) not in Path("run.zarr/zarr.json").read_text()


def test_a_gap_at_a_station_names_it(tmp_path: Path) -> None:
    values = np.array([[1.0, 2.0], [3.0, np.nan]])
    days = np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")
    data = xarray.Dataset({"t": (("time", "station"), values)}, {"time": days, "station": ["berlin", "rome"]})
    data.to_zarr(tmp_path / "s.zarr")
    states = read_states(tmp_path / "s.zarr", "--analyses", None)
    with pytest.raises(NonFinite, match="the first at 2020-01-02T00:00:00, station rome"):
        states.at(states.times, "needed")
