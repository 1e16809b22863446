"""Counting and scoring: any order, bands, workers and files give the same; intervals; what does not line up."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.sphere.grid import Grid
from dtheta.core.sphere.transform import SphericalTransform
from dtheta.errors import ConfigError, FormatError, NonFinite, OutputError, ShapeMismatch
from dtheta.score import bootstrap
from dtheta.score.ensemble import CRPS, RMSE, Box, EnergyScore, Event, Verification, crps, standard_metrics
from dtheta.score.ensemble.brier import Reliability
from tests.unit.score.ensemble.plain import drawn

GRID = Grid(8, 12)
CHANNELS = ["z1", "z2"]
KEYS = [(start, lead) for start in range(6) for lead in (6, 12)]
REFERENCES = {
    "mean": drawn(2, 8, 12, seed=90),
    "p95": {"z1": torch.full((8, 12), 1.0)},
    "climate": drawn(2, 21, 8, 12, seed=91).sort(dim=1).values,
}


def fields(start: int, lead: int, members: int = 7) -> tuple[Tensor, Tensor]:
    signal, seed = drawn(2, 8, 12, seed=1000 + 10 * start + lead), 10 * start + lead
    return signal + drawn(members, 2, 8, 12, seed=seed).float(), signal + drawn(2, 8, 12, seed=500 + seed)


def verification(**given) -> Verification:
    metrics = standard_metrics(climatology="mean", thresholds=["p95"], climate="climate", spectra=True, energy=True)
    given = {"metrics": metrics, "transform": SphericalTransform(GRID, 5), "leads": [6, 12]} | given
    return Verification(
        grid=GRID, channels=CHANNELS, references=REFERENCES, regions={"north": Box(0, 90)}, units={"z1": "m"}, **given
    )


def counted(keys=KEYS, **given) -> Verification:
    found = verification(**given)
    for key in keys:
        found.update(*key, *fields(*key))
    return found


def same(a: Verification, b: Verification, rel: float = 1e-9) -> None:
    left, right = (v.result(resamples=20).to_dict()["scores"] for v in (a, b))
    assert len(left) == len(right) > 100
    for one, other in zip(left, right, strict=True):
        assert {k: one[k] for k in ("metric", "channel", "region", "lead", "unit")} == {
            k: other[k] for k in ("metric", "channel", "region", "lead", "unit")
        }
        for name in ("value", "low", "high"):
            a_flat, b_flat = (np.array(x[name], dtype=float).ravel() for x in (one, other))
            # spectra are transformed in float32, of whose rounding the processor and the size of a batch have a part
            allowed = max(rel, 1e-6) if rel and one["metric"].startswith("spectrum") else rel
            np.testing.assert_allclose(a_flat, b_flat, rtol=allowed, atol=1e-9, err_msg=one["metric"])


@pytest.fixture(scope="module")
def whole() -> Verification:
    return counted()


def test_the_order_of_starts_and_leads_does_not_count(whole: Verification) -> None:
    keys = KEYS.copy()
    random.Random(0).shuffle(keys)
    same(whole, counted(keys), rel=0)


def test_workers_by_starts_are_merged(whole: Verification) -> None:
    parts = [counted(KEYS[i::3]) for i in range(3)]
    same(whole, parts[2].merge(parts[0]).merge(parts[1]), rel=0)
    assert len(parts[0].entries) == 4  # merging made a new one


def test_little_memory_reads_bands_and_gives_the_same(whole: Verification) -> None:
    same(whole, counted(memory=7 * 12 * 32 * 3))


def test_a_memory_map_a_function_and_a_tensor_are_the_same(whole: Verification, tmp_path) -> None:
    mapped, called = verification(memory=7 * 12 * 32 * 2), verification(memory=7 * 12 * 32 * 2)
    for key in KEYS:
        x, y = fields(*key)
        np.save(tmp_path / "x.npy", x.numpy())
        mapped.update(*key, np.load(tmp_path / "x.npy", mmap_mode="r"), y.numpy())
        called.update(*key, lambda channel, rows, x=x: x[:, channel, rows].numpy(), y)
    same(whole, mapped)
    same(whole, called)


def test_bands_of_several_workers_are_merged() -> None:
    metrics = standard_metrics(climatology="mean", thresholds=["p95"], climate="climate")
    together = counted(metrics=metrics)
    parts = []
    for rows in ((0, 3), (5, 8), (3, 5)):
        part = verification(metrics=metrics)
        for key in KEYS:
            x, y = fields(*key)
            part.update(*key, x[:, :, slice(*rows)], y[:, slice(*rows)], rows=rows)
        parts.append(part)
    with pytest.raises(ConfigError, match="start 0, lead 6: only rows 0:3, 5:8 of 8 were counted"):
        parts[0].merge(parts[1]).result()
    same(together, parts[0].merge(parts[1]).merge(parts[2]))
    with pytest.raises(ConfigError, match="rows 0 to 2 were counted before"):
        parts[0].merge(together)


def test_a_file_goes_on_where_it_ended(whole: Verification, tmp_path) -> None:
    path = counted(KEYS[:5]).save(tmp_path / "counts")
    later = verification().restore(path)
    for key in KEYS[5:]:
        later.update(*key, *fields(*key))
    same(whole, later, rel=0)
    with pytest.raises(ConfigError, match=r"counts has other seed: 0; expected 1"):
        verification(seed=1).restore(path)
    with pytest.raises(ConfigError, match="has other metrics"):
        verification(metrics=[RMSE()]).restore(path)
    (tmp_path / "damaged").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FormatError):
        verification().restore(tmp_path / "damaged")
    with pytest.raises(ConfigError, match="nothing to save"):
        verification().save(tmp_path / "none")
    with pytest.raises(OutputError):
        whole.save(tmp_path / "no" / "such" / "folder" / "counts")


def test_counts_that_are_no_numbers_are_refused(tmp_path) -> None:
    found = counted(KEYS[:1])
    entry = found.entries[KEYS[0]]
    for name, change in (("weight", torch.nan), ("totals", torch.inf)):
        damaged = torch.full_like(entry.weight, change)
        totals = {s: torch.full_like(t, change) for s, t in entry.totals.items()}
        given = {"weight": damaged} if name == "weight" else {"totals": totals}
        found.entries = {KEYS[0]: replace(entry, **given)}
        with pytest.raises(FormatError, match="the counts are damaged"):
            verification().restore(found.save(tmp_path / name))


def test_another_file_of_tensors_is_no_count(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(FormatError, match="holds no counts"):
        verification().restore(tmp_path / "other")


def test_intervals_are_those_of_a_bootstrap_over_starts(whole: Verification) -> None:
    """By hand for RMSE: the squared errors of each start, resampled in blocks of two."""
    score = whole.result(block=2, resamples=300, seed=3).score("rmse", 6, "z1")
    squares = []
    for start in range(6):
        x, y = fields(start, 6)
        squares.append((GRID.area_HW() * (x.double().mean(0) - y)[0] ** 2).mean())
    by_hand = bootstrap(
        torch.stack(squares), torch.sqrt, kind="percentile", resamples=300, seed=3, name="starts", block=2
    )
    assert score.interval.estimate == pytest.approx(by_hand.estimate)
    assert (score.interval.low, score.interval.high) == pytest.approx((by_hand.low, by_hand.high))
    assert score.unit == "m" and score.starts == 6


def test_a_difference_is_paired(whole: Verification) -> None:
    worse = verification()
    for key in KEYS:
        x, y = fields(*key)
        worse.update(*key, x + 0.05, y)
    difference = worse.difference(whole, resamples=100)
    alone, right = worse.result(resamples=100), whole.result(resamples=10)
    for lead in (6, 12):
        found, apart = (result.score("crps", lead, "z1").interval for result in (difference, alone))
        assert found.estimate == pytest.approx(apart.estimate - float(right.score("crps", lead, "z1").value))
        assert found.high - found.low < (apart.high - apart.low) / 2  # starts that are hard are hard for both
    assert whole.difference(whole, resamples=10).score("rmse", 6, "z1").interval.high == 0.0
    with pytest.raises(ConfigError, match="12 and 4 pairs of start and lead, 4 of them in both"):
        whole.difference(counted(KEYS[:4]))


def test_a_mask_leaves_out_cells_and_gaps_in_them() -> None:
    x, y = fields(0, 6)
    mask = torch.rand(8, 12, generator=torch.Generator().manual_seed(0)) > 0.3
    x[3, :, ~mask], y[0, ~mask] = torch.nan, torch.inf
    found = Verification([CRPS(), RMSE()], grid=GRID, channels=CHANNELS)
    found.update(0, 6, x, y, mask=mask)
    area = GRID.area_HW()[mask]
    expected = (area * crps(x[:, 0][:, mask], y[0][mask])).sum() / area.sum()
    assert float(found.result().score("crps", 6, "z1").value) == pytest.approx(float(expected))


def test_starts_with_masks_count_by_their_area() -> None:
    found = Verification([RMSE()], cells=(4,))
    found.update(0, 6, torch.ones(2, 4), torch.zeros(4))
    found.update(1, 6, torch.full((2, 4), 3.0), torch.zeros(4), mask=torch.tensor([True, False, False, False]))
    assert float(found.result().score("rmse", 6).value) == pytest.approx(((4 * 1 + 1 * 9) / 5) ** 0.5)


def test_references_may_change_with_start_and_lead() -> None:
    event = Event(above="edge")

    def edge(start, lead) -> Tensor:
        return torch.full((3,), float(start + lead))

    found = Verification([Reliability(event)], cells=(3,), references={"edge": edge})
    found.update(0, 6, torch.full((2, 3), 6.5), torch.full((3,), 6.5))
    found.update(1, 6, torch.full((2, 3), 6.5), torch.full((3,), 6.5))
    assert float(found.result().score("reliability_above_edge", 6).value[-1, 2]) == 0.5


def test_results_are_json_tables_and_series(whole: Verification, tmp_path) -> None:
    result = whole.result(resamples=10)
    read = json.loads(result.save(tmp_path / "scores.json").read_text())
    assert read == result.to_dict() and read["members"] == [7, 7]
    assert result.table().splitlines()[0].split() == ["metric", "channel", "region", "6", "12"]
    leads, values = result.series("rank_histogram", "z2", "north")
    assert leads == [6, 12] and values.shape == (2, 3, 20)
    with pytest.raises(ConfigError, match=r"no metric 'rsme'; there is .*did you mean 'rmse'"):
        result.select("rsme")
    with pytest.raises(ConfigError, match="rmse: give a channel of z1, z2"):
        result.series("rmse")
    with pytest.raises(ConfigError, match="is a curve of 20 points"):
        _ = result.score("rank_histogram", 6, "z1").interval


def test_one_start_has_no_interval() -> None:
    found = counted(KEYS[:2]).result()
    assert np.isnan(found.score("rmse", 6, "z1").interval.low)
    assert found.score("rmse", 6, "z1").to_dict()["low"] is None


def bad(change) -> Verification:
    found = verification()
    x, y = fields(0, 6)
    try:
        change(found, x, y)
    finally:
        assert not found.entries  # nothing half-counted
    return found


def set_nan(tensor: Tensor, *index: int) -> Tensor:
    tensor[index] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v, x, y: v.update(0, 6, set_nan(x, 4, 1, 7, 2), y), NonFinite,
         r"forecast: NaN or infinity in channel 'z2', start 0, lead 6, member 4, cell \(7, 2\) at .* S, 60 E"),
        (lambda v, x, y: v.update(0, 6, x, set_nan(y, 0, 3, 11)), NonFinite,
         r"truth: NaN or infinity in channel 'z1', start 0, lead 6, cell \(3, 11\) at .* 330 E, and 0 more"),
        (lambda v, x, y: v.update(0, 6, x[:, :1], y), ShapeMismatch, r"forecast has the shape .* channels z1, z2"),
        (lambda v, x, y: v.update(0, 6, x[..., :11], y), ShapeMismatch, r"expected \(members, 2, 8, 12\)"),
        (lambda v, x, y: v.update(0, 6, x, y[:, :7]), ShapeMismatch, r"truth has the shape \(2, 7, 12\)"),
        (lambda v, x, y: v.update(0, 9, x, y), ConfigError, "lead 9: this lead is not among those .* nearest: 6"),
        (lambda v, x, y: v.update(0, "6 h", x, y), ConfigError, "expected a whole number or a word, and a number"),
        (lambda v, x, y: v.update(0.5, 6, x, y), ConfigError, "expected a whole number or a word, and a number"),
        (lambda v, x, y: v.update(0, 6, x[:1], y), ConfigError, "spread needs at least 2 members, found 1"),
        (lambda v, x, y: v.update(0, 6, x[:0], y), ConfigError, "no members"),
        (lambda v, x, y: v.update(0, 6, "x.npy", y), ConfigError, "forecast is a str"),
        (lambda v, x, y: Verification([RMSE()], grid=GRID).update(0, 6, x[:, 0], y[0], mask=torch.ones(8, 12)),
         ShapeMismatch, "expected booleans"),
        (lambda v, x, y: v.update(0, 6, x * 1j, y), ConfigError, "complex"),
        (lambda v, x, y: v.update(0, 6, x, y, rows=(3, 9)), ConfigError, r"rows \(3, 9\)"),
        (lambda v, x, y: v.update(0, 6, lambda c, rows: x[:, c, :1], y), ShapeMismatch, "function of members gave"),
        (lambda v, x, y: v.update(0, 6, lambda c, rows: 3.0, y), ConfigError, "no members"),
        (lambda v, x, y: v.update(0, 6, x, y, rows=(0, 2.5)), ConfigError, "a bound of rows is 2.5"),
        (lambda v, x, y: v.merge(3), ConfigError, "a int was given; expected another Verification"),
        (lambda v, x, y: v.difference(v.document()), ConfigError, "a dict was given; expected another"),
    ],
)  # fmt: skip
def test_what_does_not_line_up_is_refused_and_not_counted(change, error, message) -> None:
    with pytest.raises(error, match=message):
        bad(change)


def test_a_gap_is_named_in_a_band_too() -> None:
    found = verification(memory=1)
    x, y = fields(0, 6)
    with pytest.raises(NonFinite, match=r"member 4, cell \(7, 2\)"):
        found.update(0, 6, set_nan(x, 4, 1, 7, 2), y)


def test_nothing_is_counted_twice_and_nothing_may_be_missing(whole: Verification) -> None:
    with pytest.raises(ConfigError, match="start 0, lead 6: rows 0 to 7 were counted before"):
        counted([(0, 6), (0, 6)])
    with pytest.raises(ConfigError, match="rows 0 to 7 were counted before"):
        whole.merge(whole)
    with pytest.raises(ConfigError, match="1 pairs of start and lead are missing, the first: start 5, lead 12"):
        counted(KEYS[:-1]).result()
    assert counted(KEYS[:-1]).result(gaps=True).score("rmse", 12, "z1").starts == 5
    with pytest.raises(ConfigError, match="nothing was counted"):
        verification().result()
    with pytest.raises(ConfigError, match="all numbers or all words"):
        counted([(0, 6)]).merge(_words())
    with pytest.raises(ConfigError, match="blocks of 7"):
        whole.result(block=7)


def _words() -> Verification:
    found = verification()
    found.update("2020-01-01", 6, *fields(0, 6))
    return found


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"metrics": []}, ConfigError, "metrics: none were given"),
        ({"metrics": [RMSE(), RMSE()]}, ConfigError, "'rmse' is there twice"),
        ({"channels": ["a", "a"]}, ConfigError, "'a' is there twice"),
        ({"units": {"t": "K"}}, ConfigError, "units: no channel 't'"),
        ({"references": {"c": torch.zeros(2, 3)}}, ShapeMismatch, "reference 'c', channel 'a'"),
        ({"references": {"c": torch.zeros(3, 4)}}, ShapeMismatch, r"expected \(2, ...\), one a channel"),
        ({"references": {"c": {"x": torch.zeros(4)}}}, ConfigError, "no channel 'x'"),
        ({"references": {"c": torch.full((2, 4), torch.nan)}}, NonFinite, "reference 'c', channel 'a': 4 of 4"),
        ({"memory": 0}, ConfigError, "memory is 0"),
        ({"metrics": CRPS()}, ConfigError, "expected several"),
        ({"metrics": [CRPS]}, ConfigError, "is no metric of ensembles"),
        ({"cells": 4}, ConfigError, "cells are 4"),
        ({"cells": ()}, ConfigError, "cells are"),
        ({"cells": (4, 0)}, ConfigError, "a size of cells is 0"),
        ({"references": {"c": "mean.nc"}}, ConfigError, "is no field"),
    ],
)
def test_verifications_that_cannot_be_meant(given, error, message) -> None:
    with pytest.raises(error, match=message):
        Verification(**{"metrics": [RMSE()], "cells": (4,), "channels": ["a", "b"]} | given)


def test_ten_thousand_members_are_scored_in_the_memory_of_a_band(tmp_path) -> None:
    """A map of 10,000 members is read row by row: what is allocated at once stays near the memory that was allowed."""
    import tracemalloc

    members, allowed = 10_000, 8 << 20
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(members, 1, 16, 24))
    for first in range(0, members, 1000):
        x[first : first + 1000] = drawn(1000, 1, 16, 24, seed=first).numpy()
    x.flush()
    y = drawn(1, 16, 24, seed=1)
    found = Verification([CRPS()], cells=(16, 24), channels=["z"], memory=allowed)
    tracemalloc.start()
    found.update(0, 6, np.load(path, mmap_mode="r"), y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * allowed < x.nbytes * 2
    expected = crps(torch.from_numpy(np.load(path)[:, 0]), y[0]).mean()
    assert float(found.result().score("crps", 6, "z").value) == pytest.approx(float(expected), rel=1e-12)


def test_the_energy_score_reads_a_whole_field() -> None:
    x, y = fields(0, 6)
    banded, at_once = (Verification([EnergyScore()], grid=GRID, channels=CHANNELS, memory=m) for m in (1, 1 << 30))
    for v in (banded, at_once):
        v.update(0, 6, x, y)
    assert banded.result().to_dict()["scores"] == at_once.result().to_dict()["scores"]
