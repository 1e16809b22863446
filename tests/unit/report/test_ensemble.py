"""The page of an ensemble: what it says is what the scores say, and it holds together whatever is missing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from dtheta.core.sphere import Grid, SphericalTransform
from dtheta.errors import ConfigError
from dtheta.report.ensemble import ensemble_page, ensemble_report, useful_days
from dtheta.report.ensemble_record import EnsembleRun, Plume, Snapshot
from dtheta.score.ensemble import Verification, standard_metrics
from tests.unit.report.reading import charts, read

GRID = Grid(6, 12)
LEADS = (0, 24, 48, 72)
CHANNELS = ("z", "t")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(starts: int = 4, channels: tuple[str, ...] = CHANNELS, spread: float = 1.0, members: int = 5) -> EnsembleRun:
    """An ensemble of noise about a signal; its members are as far from it as the truth where ``spread`` is 1."""
    verification = Verification(
        standard_metrics(climatology="climatology", thresholds=["p95"], spectra=True), grid=GRID, channels=channels,
        units=dict.fromkeys(channels, "m"), transform=SphericalTransform(GRID, 4),
        references={"climatology": torch.zeros(len(channels), 6, 12), "p95": torch.ones(len(channels), 6, 12)},
    )  # fmt: skip
    shape = (len(channels), 6, 12)
    for start in range(starts):
        for lead in LEADS:
            signal = torch.randn(shape, generator=draws(start))
            size = 0.2 + lead / 72
            truth = signal + size * torch.randn(shape, generator=draws(100 + 10 * start + lead))
            noise = torch.randn(members, *shape, generator=draws(5000 + 10 * start + lead))
            verification.update(start, lead, signal + spread * size * noise, truth)
    field = torch.randn(6, 12, generator=draws(1)).double()
    snapshots = [Snapshot(c, h, field, field.abs(), field + 0.1) for c in channels for h in (24, 72)]
    place = torch.randn(members, 4, generator=draws(2))
    plumes = [Plume("40°N 30°E", channels[0], LEADS, place, place.mean(0), place[0])]
    return EnsembleRun(
        verification.result(resamples=50), "net", "what happened", members, "2020-01-31", dict.fromkeys(channels, "m"),
        GRID.latitudes.tolist(), GRID.longitudes.tolist(), snapshots, plumes, dict.fromkeys(channels, 1.3),
        {"seed": "0", "any member again": "`dtheta ensemble replay run.zarr`"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> EnsembleRun:
    return run()


def test_the_page_holds_together(whole: EnsembleRun, tmp_path) -> None:
    path = ensemble_report(whole, tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    page = read(html)
    titles = [svg.findtext("title") for svg in charts(html)]
    text = " ".join(page.text)
    for title in (
        "Error and spread",
        "Spread, day 3",
        "z, 40°N 30°E",
        "Members over truth",
        "Area under the ROC curve",
    ):
        assert title in titles, title
    assert titles.count("Mean, day 1") == 2 and "above the 95th percentile of the climate" in text
    assert "4 starts they are wide" in text or "With 4 starts" in text
    assert "NaN" not in html.replace("NaN or", "") and "nan" not in re.sub(r"<style.*?</style>", "", html, flags=re.S)


def test_it_says_what_the_scores_say(whole: EnsembleRun) -> None:
    page = ensemble_page(whole)
    ratios = [float(s.value) for s in whole.series("spread_error", "z") if s.lead >= 48]
    assert f"{min(ratios):.2f} to {max(ratios):.2f} of its error from day 2 on" in page.verdict
    errors = {s.lead: float(s.value) for s in whole.series("rmse", "z")}
    below = [lead / 24 for lead in LEADS if errors[lead] < 1.3]
    assert useful_days(whole, "z") == max(below)
    summary = page.sections[0]
    tiles = {tile.name: tile.value for tile in summary.blocks[0].tiles}  # type: ignore[union-attr]
    assert float(tiles["spread over error"]) == pytest.approx(sum(ratios) / len(ratios), abs=0.005)


@pytest.mark.parametrize(("spread", "outcome", "words"), [(0.3, "fails", "too alike"), (3.0, "fails", "too far apart")])
def test_spread_that_is_wrong_is_called_so(spread: float, outcome: str, words: str) -> None:
    page = ensemble_page(run(channels=("z",), spread=spread))
    (finding,) = page.sections[0].blocks[1].findings  # type: ignore[union-attr]
    assert finding.outcome == outcome and words in finding.text


def test_one_start_has_no_intervals_and_the_page_says_so() -> None:
    single = run(starts=1)
    html = ensemble_page(single).html()
    read(html)
    assert "With 1 start they are wide" in html and 'class="band' not in html


def test_what_is_missing_is_left_out(whole: EnsembleRun) -> None:
    bare = replace(whole, snapshots=(), plumes=(), deviation={}, settings={}, latitudes=(), longitudes=(), units={})
    titles = [section.title for section in ensemble_page(bare).sections]
    assert not {"Maps of one start", "Plumes", "Settings"} & set(titles) and "All scores" in titles
    assert "climate" not in ensemble_page(bare).verdict
    read(ensemble_page(bare).html())


def test_a_state_of_one_axis_has_profiles(whole: EnsembleRun) -> None:
    row = torch.arange(8.0, dtype=torch.float64)
    flat = replace(whole, snapshots=[Snapshot("z", 24, row, row / 10, row + 1)], latitudes=(), longitudes=())
    html = ensemble_page(flat).html()
    read(html)
    assert "One start in its place" in html and "wave number" in html


def test_the_last_score_of_a_table_is_a_number_with_its_unit(whole: EnsembleRun) -> None:
    table = next(s for s in ensemble_page(whole).sections if s.title == "All scores").blocks[0]
    rows = {row[0].text: row for row in table.rows}  # type: ignore[union-attr]
    assert "rmse, m" in rows and len(rows["rmse, m"]) == 1 + len(LEADS)
    assert rows["rmse, m"][-1].order == pytest.approx(float(whole.series("rmse", "z")[-1].value))


def test_without_scores_there_is_no_page(whole: EnsembleRun) -> None:
    with pytest.raises(ConfigError, match="nothing to show"):
        replace(whole, scores=replace(whole.scores, scores=()))


def test_an_error_that_is_no_number_does_not_beat_the_climate(whole: EnsembleRun) -> None:
    scores = [
        replace(s, value=torch.full_like(s.value, float("nan"))) if s.metric == "rmse" and s.lead >= 24 else s
        for s in whole.scores
    ]
    assert useful_days(replace(whole, scores=scores), "z") == 0.0
