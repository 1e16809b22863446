"""The folder of forecasts from several starts: what goes in comes out, xarray opens it, what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dtheta.core.sphere import Grid
from dtheta.ensemble.hindcast import Beginnings, Climate, Hindcast, create_hindcast
from dtheta.ensemble.latlon import LatLon, grid_of
from dtheta.ensemble.layout import Field, layout
from dtheta.errors import ConfigError, FormatError, OutputError, ShapeMismatch

GRID = Grid(4, 8)
FIELDS = [Field("z", "m", "geopotential_height"), Field("t", "K")]


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def begin(starts: int = 2, leads: int = 3) -> Beginnings:
    climate = Climate(some(2, 4, 8, seed=3), some(5, 2, 4, 8, seed=4).sort(0).values)
    times = ["2020-01-01T00:00:00", "2020-01-03T06:00:00"][:starts]
    return Beginnings(times, some(starts, 3, 2, 4, 8), some(starts, leads, 2, 4, 8, seed=1), climate, some(6, 2, 4, 8))


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    put = begin()
    create_hindcast(tmp_path / "run.zarr", layout((2, 4, 8), FIELDS, GRID), put, [0, 2, 4], 6.0, {"seed": 7})
    found = Hindcast(tmp_path / "run.zarr")
    state, past = found.analyses(1)
    assert torch.equal(state, put.analyses[1, -1]) and torch.equal(past, put.analyses[1, :-1])
    assert put.truth is not None and put.climate is not None and put.states is not None
    truth, climate, states = found.truth(1), found.climate(), found.states()
    assert truth is not None and climate is not None and states is not None
    assert torch.equal(truth, put.truth[1]) and torch.equal(states, put.states)
    assert torch.equal(climate.mean, put.climate.mean) and torch.equal(climate.quantiles, put.climate.quantiles)
    assert found.times == list(put.times) and found.leads == [0, 2, 4] and found.record == {"seed": 7}
    assert found.grid == GRID and found.fields == FIELDS and found.units == {"z": "m", "t": "K"} and len(found) == 2


def test_a_state_of_one_axis_has_no_channels_no_grid_and_numbers_for_times(tmp_path: Path) -> None:
    put = Beginnings(["0", "1"], some(2, 1, 5))
    found = create_hindcast(tmp_path / "run.zarr", layout((5,)), put, [0, 1], 6.0, {})
    assert found.fields is None and found.grid is None and found.time(1) == 1
    assert found.truth(0) is None and found.climate() is None and found.states() is None
    state, past = found.analyses(0)
    assert torch.equal(state, put.analyses[0, 0]) and len(past) == 0


def test_xarray_opens_its_parts_with_units(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    put = begin()
    create_hindcast(tmp_path / "run.zarr", layout((2, 4, 8), FIELDS, GRID), put, [0, 2, 4], 6.0, {})
    truth = xarray.open_zarr(tmp_path / "run.zarr", group="truth", consolidated=False, decode_timedelta=False)
    assert truth["z"].dims == ("start", "forecast_period", "latitude", "longitude") and truth["t"].units == "K"
    assert list(truth["forecast_period"].values) == [0, 12, 24]
    assert put.truth is not None
    assert np.array_equal(truth["t"].values, put.truth[:, :, 1].numpy())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"truth": some(2, 2, 2, 4, 8)}, ShapeMismatch, r"expected \(2, 3, \.\.\.\)"),
        ({"times": ["0", "0"]}, ConfigError, "each once"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, change: dict, error: type[Exception], said: str
) -> None:
    put = Beginnings(**{"times": ["0", "1"], "analyses": some(2, 1, 2, 4, 8)} | change)
    with pytest.raises(error, match=said):
        create_hindcast(tmp_path / "run.zarr", layout((2, 4, 8), FIELDS, GRID), put, [0, 1, 2], 6.0, {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_other_folders_are_told_apart(tmp_path: Path) -> None:
    put = Beginnings(["0"], some(1, 1, 5))
    create_hindcast(tmp_path / "run.zarr", layout((5,)), put, [0], 6.0, {})
    with pytest.raises(OutputError, match="it exists"):
        create_hindcast(tmp_path / "run.zarr", layout((5,)), put, [0], 6.0, {})
    (tmp_path / "other").mkdir()
    with pytest.raises(FormatError, match="is no run of"):
        Hindcast(tmp_path / "other")
    with pytest.raises(FormatError):
        Hindcast(tmp_path / "run.zarr").archive(0)


@pytest.mark.parametrize("grid", [Grid(6, 12), Grid(7, 12, "equiangular")])
def test_a_grid_is_known_by_its_latitudes_and_longitudes(grid: Grid) -> None:
    near = grid_of(grid.latitudes.astype(np.float32), grid.longitudes.astype(np.float32))
    assert near == grid
    turned = grid_of(grid.latitudes[::-1], grid.longitudes)
    assert isinstance(turned, LatLon) and turned.shape == grid.shape
    assert turned.weights.sum() == pytest.approx(2) and (turned.weights > 0).all()
