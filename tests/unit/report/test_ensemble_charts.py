"""Charts of ensembles: maps as masks, plumes, columns, reliability; each against what went in."""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest

from dtheta.core.sphere import Grid
from dtheta.errors import NonFinite, ShapeMismatch
from dtheta.report.charts.columns import Pillar, column_chart
from dtheta.report.charts.field_map import field_map, grayscale_png
from dtheta.report.charts.line import Line
from dtheta.report.charts.palette import NEUTRAL, styles
from dtheta.report.charts.plume import plume_chart
from dtheta.report.charts.reliability import Class, reliability_chart
from tests.unit.report.reading import hovers

GRID = Grid(6, 12)


def pictures(svg: str) -> list[np.ndarray]:
    image = pytest.importorskip("PIL.Image")
    root = ElementTree.fromstring(svg)
    found = [node.get("href") or "" for node in root.iter("image")]
    return [np.asarray(image.open(io.BytesIO(base64.b64decode(one.partition(",")[2])))) for one in found]


def test_a_gray_picture_is_read_back_as_it_was() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    read = image.open(io.BytesIO(grayscale_png(pixels)))
    assert read.mode == "L" and np.array_equal(np.asarray(read), pixels)


def test_a_map_shades_by_value_and_marks_tell_it() -> None:
    values = np.arange(72.0).reshape(6, 12)
    chart = field_map("Spread", values, GRID.latitudes.tolist(), GRID.longitudes.tolist(), value_name="m", full=71.0)
    (shades,) = pictures(chart.svg)
    assert np.array_equal(shades, np.rint(255 * values / 71).astype(np.uint8))
    told = hovers(chart.svg)
    assert len(told) == 72 and told[0] == "68.8°N, 0°\nm 0" and told[-1] == "68.8°S, 30°W\nm 71"
    assert chart.description == "Map of m, from 0 to 71."


def test_a_signed_map_has_a_mask_for_each_sign() -> None:
    values = np.linspace(-2, 1, 72).reshape(6, 12)
    chart = field_map("Error", values, GRID.latitudes.tolist(), GRID.longitudes.tolist(), value_name="m", signed=True)
    above, below = pictures(chart.svg)
    assert above.max() == 128 and below.max() == 255 and not ((above > 0) & (below > 0)).any()
    root = ElementTree.fromstring(chart.svg)
    names = {mask.get("id") for mask in root.iter("mask")}
    used = {(node.get("mask") or "")[5:-1] for node in root.iter("rect") if node.get("mask")}
    assert len(names) == 2 and names == used


def test_a_map_of_a_region_has_round_lines_inside() -> None:
    latitudes, longitudes = np.linspace(60, 40, 9).tolist(), np.linspace(0, 30, 13).tolist()
    chart = field_map("Mean", np.ones((9, 13)), latitudes, longitudes, value_name="K", full=2.0, none=0.5)
    texts = [node.text for node in ElementTree.fromstring(chart.svg).iter("text")]
    assert {"60°N", "50°N", "40°N", "0°", "30°E"} <= set(texts) and "0.5" in texts


def test_maps_refuse_other_shapes_and_gaps() -> None:
    with pytest.raises(ShapeMismatch, match="2 latitudes"):
        field_map("a", np.ones((3, 4)), [10, 0], [0, 90, 180, 270], value_name="m")
    with pytest.raises(NonFinite, match="1 values"):
        field_map("a", np.array([[1.0, np.nan]]), [0], [0, 180], value_name="m")


def test_columns_stand_on_zero_with_their_bounds() -> None:
    pillars = [Pillar("low", 0.2, 0.1, 0.3), Pillar("high", 0.8)]
    chart = column_chart("Ranks", pillars, x_name="rank", y_name="share", expected=0.5, ends=("below", "above"))
    assert hovers(chart.svg) == ["low\nshare 0.2 (0.1 to 0.3)", "high\nshare 0.8"]
    bars = [node for node in ElementTree.fromstring(chart.svg).iter("rect") if "pillar" in (node.get("class") or "")]
    heights = [float(bar.get("height") or 0) for bar in bars]
    assert heights[1] == pytest.approx(4 * heights[0], rel=1e-3)
    assert chart.svg.count('class="reference"') == 1 and chart.svg.count("pillar-whisker") == 1


def test_reliability_tells_forecast_and_frequency() -> None:
    classes = [Class(0.05, 0.02, 0.9, 0.01, 0.04), Class(0.9, 0.7, 0.1)]
    chart = reliability_chart("Day 2", classes, NEUTRAL, base_rate=0.088)
    first, second = hovers(chart.svg)
    thin = "\u202f"
    assert first == f"forecast 5.0{thin}%\nhappened 2.0{thin}% (1.0{thin}% to 4.0{thin}%)\n90.0{thin}% of forecasts"
    assert second == f"forecast 90.0{thin}%\nhappened 70.0{thin}%\n10.0{thin}% of forecasts"


def test_plumes_draw_every_member_once() -> None:
    look = styles(["mean", "truth", "members"])
    lines = [Line("mean", [(0, 1.0), (1, 2.0)]), Line("truth", [(0, 1.0), (1, 5.0)])]
    members = [[1.0, 0.0], [1.0, 4.0], [1.0, 2.0]]
    chart = plume_chart("p", [0, 1], members, lines, look, members_name="members", x_name="day", y_name="m")
    (path,) = [n for n in ElementTree.fromstring(chart.svg).iter("path") if "plume" in (n.get("class") or "")]
    assert (path.get("d") or "").count("M") == 3 and chart.description.startswith("3 members.")
    assert hovers(chart.svg)[1] == "day 1\nmean 2\ntruth 5"
