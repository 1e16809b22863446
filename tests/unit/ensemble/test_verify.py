"""verify: ensembles, archives, labeled forecasts and triples give the same scores; what does not line up is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.sphere import Grid
from dtheta.ensemble.archiving import archive
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.labeled import Coordinates
from dtheta.ensemble.layout import Field
from dtheta.ensemble.noise import WhiteNoise
from dtheta.ensemble.verify import verify
from dtheta.errors import ConfigError, FormatError, ShapeMismatch
from dtheta.score.ensemble import ACC, CRPS, RMSE, Verification

xr = pytest.importorskip("xarray", reason="pip install 'dtheta[weather]'")

GRID = Grid(4, 6)
DATES = [np.datetime64("2020-01-01T00", "s"), np.datetime64("2020-01-02T00", "s")]
STEPS = [1, 2]
METRICS = [RMSE(), CRPS()]
FIELDS = [Field("z", "m"), Field("t", "K")]
DRAW = torch.Generator().manual_seed(0)
STATES = {date: torch.randn(2, 4, 6, generator=DRAW) for date in DATES}
ENSEMBLE = Ensemble(lambda x: 0.9 * x.roll(1, -1), 5, perturbation=WhiteNoise(0.3))
ENSEMBLE_RUNS = [(str(date), 6 * step, x) for date in DATES for step, x in ENSEMBLE.run(STATES[date], STEPS, time=date)]
TRUTH = {(date, 6 * step): torch.randn(2, 4, 6, generator=DRAW) for date in DATES for step in STEPS}


def members(date: np.datetime64) -> Tensor:
    """All leads of one start (T, M, C, H, W)."""
    return torch.stack([x for _, x in ENSEMBLE.run(STATES[date], STEPS, time=date)])


def expected() -> Verification:
    found = Verification(METRICS, grid=GRID, channels=["z", "t"])
    for date in DATES:
        for i, step in enumerate(STEPS):
            found.update(str(date), 6 * step, members(date)[i], TRUTH[date, 6 * step])
    return found


def same(a: Verification, b: Verification) -> None:
    left, right = (v.result(resamples=20) for v in (a, b))
    assert len(left) == len(right) == 8
    for one, other in zip(left, right, strict=True):
        assert (one.metric, one.channel, one.lead, one.starts) == (other.metric, other.channel, other.lead, 2)
        torch.testing.assert_close(one.value, other.value, rtol=1e-6, atol=1e-8)


def forecast(units: tuple[str, str] = ("m", "K")) -> Any:
    values = torch.stack([members(date) for date in DATES]).numpy()  # (start, lead, member, channel, lat, lon)
    dims = ("start", "lead", "member", "latitude", "longitude")
    return xr.Dataset(
        {name: (dims, values[:, :, :, c], {"units": units[c]}) for c, name in enumerate(("z", "t"))},
        {"start": np.array(DATES, "datetime64[ns]"), "lead": np.array([6, 12]) * np.timedelta64(3600 * 10**9, "ns"),
         "latitude": GRID.latitudes, "longitude": GRID.longitudes},
    )  # fmt: skip


def truth(drop: int | None = None) -> Any:
    times = [date + np.timedelta64(lead, "h") for date, lead in TRUTH]
    values = torch.stack(list(TRUTH.values())).numpy()
    found = xr.Dataset(
        {name: (("time", "lat", "lon"), values[:, c], {"units": unit})
         for c, (name, unit) in enumerate((("z", "m"), ("t", "K")))},
        {"time": np.array(times, "datetime64[ns]"), "lat": GRID.latitudes, "lon": GRID.longitudes},
    )  # fmt: skip
    return found if drop is None else found.drop_isel(time=drop)


def test_an_ensemble_is_run_and_counted() -> None:
    same(
        expected(),
        verify(ENSEMBLE, TRUTH, METRICS, analyses=STATES, starts=DATES, leads=STEPS, grid=GRID, channels=["z", "t"]),
    )


def test_an_ensemble_may_be_run_in_batches() -> None:
    settings = {"analyses": STATES, "starts": DATES, "leads": STEPS, "grid": GRID, "channels": ["z", "t"]}
    whole = verify(ENSEMBLE, TRUTH, [RMSE()], **settings)
    parts = verify(ENSEMBLE, TRUTH, [RMSE()], batch=2, **settings)
    for one, other in zip(whole.result(), parts.result(), strict=True):
        torch.testing.assert_close(one.value, other.value)
    names = {metric.name for metric in verify(ENSEMBLE, TRUTH, batch=2, **settings).metrics}
    assert "spread_error" in names and "crps" not in names


def test_triples_are_counted() -> None:
    triples = ((str(d), 6 * s, members(d)[i]) for d in DATES for i, s in enumerate(STEPS))
    found = verify(
        triples, lambda start, lead: TRUTH[np.datetime64(start, "s"), lead], METRICS, grid=GRID, channels=["z", "t"]
    )
    same(expected(), found)


def test_labeled_forecasts_find_their_truth() -> None:
    found = verify(forecast(), truth(), METRICS, grid=GRID)
    same(expected(), found)
    assert found.units == {"z": "m", "t": "K"} and found.names == ("z", "t")
    assert {score.unit for score in found.result()} == {"m", "K"}


def test_references_may_be_labeled_data() -> None:
    climatology = truth().isel(time=0, drop=True)
    found = verify(forecast(), truth(), [ACC()], references={"climatology": climatology})
    by_hand = torch.stack([torch.tensor(climatology[name].values) for name in ("z", "t")])
    other = verify(forecast(), truth(), [ACC()], references={"climatology": by_hand})
    for a, b in zip(found.result(resamples=2), other.result(resamples=2), strict=True):
        torch.testing.assert_close(a.value, b.value)


def test_labeled_truth_is_for_forecasts_without_labels_too() -> None:
    settings: dict[str, Any] = {"grid": GRID, "channels": ["z", "t"]}
    ran = verify(ENSEMBLE, truth(), METRICS, analyses=STATES, starts=DATES, leads=STEPS, **settings)
    same(expected(), ran)
    same(expected(), verify(iter(ENSEMBLE_RUNS), truth(), METRICS, **settings))
    alone = [(start, lead, x[:, 1]) for start, lead, x in ENSEMBLE_RUNS]
    found = verify(alone, truth()["t"], METRICS, grid=GRID)
    scores = {(s.metric, s.lead): s.value for s in expected().result() if s.channel == "t"}
    assert all(torch.equal(s.value, scores[s.metric, s.lead]) for s in found.result())
    with pytest.raises(ConfigError, match="the truth has the channels z, t, and forecasts none"):
        verify(alone, truth(), METRICS, grid=GRID)


def test_units_are_compared_where_both_are_told() -> None:
    settings: dict[str, Any] = {"grid": GRID, "channels": ["z", "t"], "units": {"z": "km"}}
    run: dict[str, Any] = {"analyses": STATES, "starts": DATES, "leads": STEPS}
    with pytest.raises(ConfigError, match="'z': what is counted is in km, the truth in m; convert one"):
        verify(ENSEMBLE, truth(), METRICS, **run, **settings)
    with pytest.raises(ConfigError, match="'z': what is counted is in km, the truth in m"):
        verify(ENSEMBLE_RUNS, truth(), METRICS, **settings)
    mute = truth()
    del mute["z"].attrs["units"]
    same(expected(), verify(ENSEMBLE, mute, METRICS, **run, **settings))


def test_channels_select_and_order() -> None:
    found = verify(forecast(), truth(), METRICS, channels=["t", "z"], references={"c": torch.zeros(2, 4, 6)})
    assert found.names == ("t", "z")
    for score in expected().result(resamples=2):
        torch.testing.assert_close(
            found.result(resamples=2).score(score.metric, score.lead, score.channel).value,
            score.value,
            atol=2e-2,
            rtol=0,
        )
    assert verify(forecast(), truth(), METRICS, channels=["t"], grid=GRID).names == ("t",)


def test_an_array_with_channels_is_labeled_too_and_order_of_dimensions_does_not_count() -> None:
    array = forecast().to_dataarray("channel").transpose("longitude", "member", "channel", "latitude", "lead", "start")
    same(expected(), verify(array, truth().to_dataarray("variable"), METRICS, grid=GRID))


@pytest.mark.parametrize("dated", [True, False])
def test_archives_are_labeled_forecasts(tmp_path, dated: bool) -> None:
    pytest.importorskip("zarr")
    times = DATES if dated else [0, 10]
    folders = [
        archive(ENSEMBLE, tmp_path / str(i), STATES[date], STEPS, time=times[i], fields=FIELDS, grid=GRID)
        for i, date in enumerate(DATES)
    ]
    if dated:
        same(expected(), verify(folders, truth().assign(), METRICS, grid=GRID))
    found = verify(folders, lambda start, lead: TRUTH[DATES[times.index(start)], lead], METRICS)
    assert found.starts == (tuple(map(str, DATES)) if dated else (0, 10))


def test_an_archive_that_lacks_members_says_so(tmp_path) -> None:
    pytest.importorskip("zarr")

    def stop(first: int, last: int, lead: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive(ENSEMBLE, tmp_path / "a", STATES[DATES[0]], STEPS, time=0, chunk=2, hold=2, progress=stop)
    from dtheta.ensemble.store import open_archive

    with pytest.raises(ConfigError, match=r"members 2 to 4 lack|members 0 to \d lack"):
        verify(open_archive(tmp_path / "a"), lambda start, lead: None, METRICS)


def test_areas_of_rows_are_those_between_their_midpoints() -> None:
    rows = np.linspace(90, -90, 181)
    weights = Coordinates(rows, np.arange(360.0)).weights
    assert weights.sum() == pytest.approx(2) and weights[90] == pytest.approx(2 * np.sin(np.deg2rad(0.5)))
    np.testing.assert_allclose(weights, Coordinates(rows[::-1], np.arange(360.0)).weights[::-1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: (forecast(("km", "K")), truth()), ConfigError,
         "channel 'z': the forecast is in km, the truth in m; convert one"),
        (lambda: (forecast(), truth().drop_vars("t")), ConfigError, "the truth has no channel 't', only z"),
        (lambda: (forecast(), truth().isel(lat=slice(None, None, -1))), ShapeMismatch, "the order is reversed"),
        (lambda: (forecast(), truth().assign_coords(lon=(GRID.longitudes + 180) % 360 - 180)), ShapeMismatch,
         "same meridians"),
        (lambda: (forecast(), truth().assign_coords(lat=GRID.latitudes + 1)), ShapeMismatch, "interpolate"),
        (lambda: (forecast(), truth().isel(lon=slice(0, 5))), ShapeMismatch, "cells differ"),
        (lambda: (forecast(), truth(drop=1)), ConfigError,
         "start 2020-01-01T00:00:00, lead 12: the truth has no field at 2020-01-01T12.*nearest: 2020-01-01T06"),
        (lambda: (forecast(), truth().assign_coords(time=range(4))), ConfigError, "one is a date and the other"),
        (lambda: (forecast().isel(member=0), truth()), ConfigError, "forecast: no dimension for member"),
        (lambda: (forecast().assign_coords(lead=("lead", [1, 2], {"units": "months"})), truth()), ConfigError,
         "leads are in 'months'"),
        (lambda: (forecast().assign_coords(lead=np.array([6, "NaT"], "timedelta64[h]").astype("timedelta64[ns]")),
                  truth()), ConfigError, r"forecast: lead 1 is NaT; expected a duration. Drop it, as by .isel\(lead"),
        (lambda: (forecast().assign_coords(lead=[6.0, np.nan]), truth()), ConfigError, "forecast: lead 1 is nan"),
        (lambda: (forecast().assign_coords(lead=["6", "12"]), truth()), ConfigError, "leads are in 'hours', as <U2"),
        (lambda: (ENSEMBLE_RUNS, truth().isel(lon=slice(0, 5))), ShapeMismatch, "the truth has cells"),
        (lambda: (ENSEMBLE_RUNS, truth().isel(lat=slice(None, None, -1))), ShapeMismatch, "the order is reversed"),
        (lambda: ([], truth()), ConfigError, "no forecasts were given"),
        (lambda: (3, truth()), ConfigError, "forecasts are a int"),
        (lambda: (ENSEMBLE, TRUTH), ConfigError, "to run an ensemble give starts="),
        (lambda: ([(0, 6, torch.zeros(2, 2, 4, 6))], {}), ConfigError, r"nothing is given for \(0, 6\)"),
        (lambda: ([(0, 6, torch.zeros(2, 2, 4, 6))], 3), ConfigError, "truth is a int"),
    ],
)  # fmt: skip
def test_what_does_not_line_up_is_refused(change, error, message) -> None:
    forecasts, true = change()
    with pytest.raises(error, match=message):
        verify(forecasts, true, METRICS, grid=GRID, **({} if hasattr(forecasts, "dims") else {"channels": ["z", "t"]}))


def test_forecasts_of_another_grid_or_other_channels_than_the_first_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"latitudes differ: .* in the grid"):
        verify(forecast(), truth(), METRICS, grid=Grid(4, 6, "equiangular"))
    with pytest.raises(ConfigError, match="has no channel 'y', only z, t"):
        verify(forecast(), truth(), METRICS, channels=["y"])
    with pytest.raises(ConfigError, match="has the channels z, and z, t are counted"):
        verify([forecast().isel(start=[0]), forecast()[["z"]].isel(start=[1])], truth(), METRICS)
    with pytest.raises(ConfigError, match="'z': the forecast is in km, what is counted in m"):
        verify(forecast(("km", "K")), TRUTH, METRICS, units={"z": "m"})


LEVELS = [500, 850]


def on_levels(data: Any) -> Any:
    """A data set on two levels, the second twice the first; areas of rows must count all the same."""
    both = xr.concat([data, 2 * data], xr.DataArray(LEVELS, dims="level", name="level"))
    for name in data.data_vars:
        both[name].attrs = data[name].attrs
    return both


def test_rows_count_by_area_among_levels_and_without_longitudes_too() -> None:
    given = on_levels(forecast()), on_levels(truth())
    flat = verify(forecast(), truth(), METRICS).result(resamples=2)
    for score in verify(*given, METRICS).result(resamples=2):  # squares and distances of 1 and 2 times a field
        other = flat.score(score.metric, score.lead, score.channel).value
        factor = np.sqrt((1 + 4) / 2) if score.metric == "rmse" else (1 + 2) / 2
        torch.testing.assert_close(score.value, factor * other, rtol=1e-5, atol=0)
    zonal = verify(forecast().mean("longitude"), truth().mean("lon"), [RMSE()]).result(resamples=2)
    error = forecast()["z"].mean(("member", "longitude")).values[:, 0] - np.stack(
        [TRUTH[date, 6][0].mean(-1).numpy() for date in DATES]
    )
    weights = Coordinates(np.array(GRID.latitudes), np.array(GRID.longitudes)).weights / 2
    expected_ = np.sqrt((error**2 @ weights).mean())
    assert float(zonal.score("rmse", 6, "z").value) == pytest.approx(expected_, rel=1e-5)


def stations(names: str) -> tuple[Any, Any]:
    found = xr.DataArray(np.zeros((1, 3, 3)), {"lead": [6], "member": range(3), "station": [*"abc"]}, name="t")
    time = np.array([DATES[0] + np.timedelta64(6, "h")], "datetime64[ns]")
    happened = xr.DataArray(np.zeros((1, 3)), {"time": time, "station": [*names]}, name="t")
    return found.assign_coords(init_time=np.datetime64(DATES[0], "ns")), happened


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: (on_levels(forecast()), on_levels(truth()).isel(level=[1, 0])), ShapeMismatch,
         "level differ: 2 from 500 to 850 in the forecast, 2 from 850 to 500 in the truth; the order is reversed"),
        (lambda: (on_levels(forecast()), on_levels(truth()).isel(lat=slice(None, None, -1))), ShapeMismatch,
         r"latitudes differ.*reversed: flip one by .isel\(latitude"),
        (lambda: stations("bac"), ShapeMismatch, "station differ.*another one: sort both by station"),
        (lambda: (forecast().isel(latitude=[1, 0, 2, 3]), truth()), ConfigError, "neither rise nor fall"),
        (lambda: (forecast().drop_vars("latitude"), truth()), ConfigError,
         "forecast: the dimension 'latitude' has no degrees, so rows have no areas"),
        (lambda: (forecast().assign(u=on_levels(forecast())["z"]), truth()), ConfigError,
         "forecast: z lies on the cells latitude, longitude, and u on latitude, level, longitude"),
        (lambda: (forecast()[["z"]].expand_dims(channel=2).assign(y=forecast()["t"].expand_dims(channel=2)), truth()),
         ConfigError, "'channel' is a dimension of channels, and z, y are variables"),
        (lambda: ("run.zarr", truth()), ConfigError, r"forecasts are a str; .* open_archive\(path\)"),
        (lambda: ([forecast(), "x"], truth()), ConfigError, "a forecast is a str; expected an archive"),
    ],
)  # fmt: skip
def test_labels_of_all_cells_and_kinds_of_variables_are_looked_at(change, error, message) -> None:
    with pytest.raises(error, match=message):
        verify(*change(), METRICS)
    verify(*stations("abc"), METRICS)


def test_data_that_was_flipped_is_read(tmp_path) -> None:
    turned = slice(None, None, -1)
    same(expected(), verify(forecast(), truth().isel(lat=turned).copy(deep=True).isel(lat=turned), METRICS, grid=GRID))
    upward = forecast().isel(latitude=turned).copy(deep=True)
    same(expected(), verify(upward.isel(latitude=turned), truth(), METRICS, grid=GRID))


def test_a_data_set_may_have_its_channels_as_a_dimension_and_variables_that_are_no_fields() -> None:
    stacked = [data.to_dataarray("channel").to_dataset(name="x") for data in (forecast(), truth())]
    same(expected(), verify(*stacked, METRICS, grid=GRID))
    happened = truth().assign(time_bnds=(("time", "bnds"), np.zeros((4, 2))), lsm=truth()["z"].isel(time=0, drop=True))
    happened["time"].attrs["bounds"] = "time_bnds"
    fields = forecast().assign(lsm=forecast()["z"].isel(start=0, lead=0, member=0, drop=True))
    found = verify(fields, happened, METRICS, grid=GRID)
    same(expected(), found)
    mixed = forecast().assign(u=on_levels(forecast())["z"])
    assert verify(mixed, truth(), METRICS, channels=["z"]).names == ("z",)


def test_a_mask_leaves_cells_out_of_labeled_forecasts_and_of_ensembles() -> None:
    counts = torch.ones(4, 6, dtype=torch.bool)
    counts[1, 2:] = False
    gaps = truth()
    gaps["z"].values[:, 1, 3] = np.nan
    by_hand = Verification(METRICS, grid=GRID, channels=["z", "t"])
    for date in DATES:
        for i, step in enumerate(STEPS):
            by_hand.update(str(date), 6 * step, members(date)[i], TRUTH[date, 6 * step], mask=counts)
    same(by_hand, verify(forecast(), gaps, METRICS, grid=GRID, mask=counts))
    same(by_hand, verify(forecast(), gaps, METRICS, grid=GRID, mask=lambda start, lead: counts))
    run: dict[str, Any] = {"analyses": STATES, "starts": DATES, "leads": STEPS, "grid": GRID, "channels": ["z", "t"]}
    same(by_hand, verify(ENSEMBLE, TRUTH, METRICS, mask=counts, **run))


def test_labeled_references_are_taken_by_their_labels() -> None:
    usual = truth().isel(time=0, drop=True)
    plain = verify(forecast(), truth(), [ACC()], references={"climatology": usual}).result(resamples=2)
    array = usual.to_dataarray("channel").isel(channel=[1, 0]).transpose("lon", "channel", "lat")
    for given in (array, {name: usual[name].transpose("lon", "lat") for name in usual}):
        found = verify(forecast(), truth(), [ACC()], references={"climatology": given}).result(resamples=2)
        for a, b in zip(plain, found, strict=True):
            torch.testing.assert_close(a.value, b.value)
    upward = usual.isel(lat=slice(None, None, -1))
    with pytest.raises(ShapeMismatch, match=r"latitudes differ: .* in reference 'climatology'; the order is reversed"):
        verify(forecast(), truth(), [ACC()], references={"climatology": upward})


def test_an_archive_that_was_changed_is_not_scored(tmp_path) -> None:
    pytest.importorskip("zarr")
    folder = archive(ENSEMBLE, tmp_path / "a", STATES[DATES[0]], STEPS, time=0, fields=FIELDS, grid=GRID)
    chunk = next(path for path in (tmp_path / "a" / "z" / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(FormatError, match=r"members 0 to 4 at lead . are not what was written"):
        verify(folder, lambda start, lead: TRUTH[DATES[0], lead], METRICS)
    chunk.unlink()
    with pytest.raises(FormatError, match="are not what was written"):
        verify(folder, lambda start, lead: TRUTH[DATES[0], lead], METRICS)


def test_an_archive_whose_fields_are_names_tells_no_units(tmp_path) -> None:
    pytest.importorskip("zarr")
    folders = [
        archive(ENSEMBLE, tmp_path / str(i), STATES[date], STEPS, time=date, fields=["z", "t"], grid=GRID)
        for i, date in enumerate(DATES)
    ]
    same(expected(), verify(folders, truth(), METRICS, grid=GRID))
