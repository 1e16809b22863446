"""Every chart: well-formed SVG, described in words, its hover texts are its inputs, nothing outside its frame."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from dtheta.errors import NonFinite, ShapeMismatch
from dtheta.report.charts import (
    Bar,
    Chart,
    Dot,
    Line,
    Point,
    bar_chart,
    dot_chart,
    heat_map,
    legend,
    line_chart,
    scatter_chart,
    shot_chart,
    styles,
)
from dtheta.report.charts.svg import shortened, text_width
from dtheta.report.quantity import significant
from dtheta.score import Interval
from tests.unit.report.reading import hovers

LOOK = styles(["LoRA", "PiSSA <&>"])
LINES = [
    Line("LoRA", [(1, 2.0), (2, 1.0), (3, 0.75)], [(1, 1.5, 2.5), (2, 0.9, 1.1), (3, 0.5, 1.0)], [(1, 2.4), (2, 0.8)]),
    Line("PiSSA <&>", [(1, 1.9), (3, 0.25)]),
]
COSINES = [[1, -0.25], [-0.25, None]]
CHARTS: dict[str, Chart] = {
    "line": line_chart("Loss", LINES, LOOK, x_name="step", y_name="loss, nats"),
    "log line": line_chart("Loss", LINES, LOOK, x_name="step", y_name="loss, nats", logarithmic=True),
    "dots": dot_chart(
        "Accuracy",
        [Dot(n, Interval(0.9, 0.88, 0.93), LOOK[n], (0.89, 0.91)) for n in LOOK],
        x_name="accuracy, %",
        percent=True,
        reference="LoRA",
    ),
    "bars": bar_chart("Size", [Bar("whole <model>", 9e7), Bar("PiSSA", 1e6, LOOK["LoRA"], "1.1 %")], x_name="bytes"),
    "scatter": scatter_chart(
        "Moved",
        [Point(s, f"layer {i}", 0.001 * (i + 1), 0.1 * i, "note") for i, s in enumerate([*LOOK] * 4)],
        LOOK,
        x_name="shift",
        y_name="turn",
    ),
    "heat": heat_map("Cosine", ["a", "b & c"], ["a", "b & c"], COSINES, value_name="cosine", signed=True),
}


@pytest.mark.parametrize("chart", CHARTS.values(), ids=list(CHARTS))
def test_is_well_formed_described_and_reachable_by_keyboard(chart: Chart) -> None:
    root = ElementTree.fromstring(chart.svg)
    assert root.tag == "svg" and root.get("role") == "img" and chart.title in (root.get("aria-label") or "")
    assert root.findtext("title") == chart.title and (root.findtext("desc") or "").endswith(".")
    marks = [g for g in root.iter("g") if "data-mark" in g.attrib]
    assert [mark.get("tabindex") for mark in marks] == ["0"] + ["-1"] * (len(marks) - 1)
    assert all(hovers(root))
    assert "nan" not in chart.svg and "http" not in chart.svg


@pytest.mark.parametrize("chart", CHARTS.values(), ids=list(CHARTS))
def test_stays_inside_its_frame(chart: Chart) -> None:
    root = ElementTree.fromstring(chart.svg)
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    for element in root.iter():
        for axis, limit in (("x", width), ("y", height), ("cx", width), ("cy", height)):
            if element.get(axis) and element.tag != "text":
                assert -1 <= float(element.get(axis) or 0) <= limit + 1, (element.tag, element.attrib)
        if element.tag == "text" and not element.get("transform") and element.get("text-anchor"):
            reach = text_width(element.text or "", 11)
            x, anchor = float(element.get("x") or 0), element.get("text-anchor")
            assert anchor != "start" or x + reach <= width + 12, element.text
            assert anchor != "end" or x - reach >= -12, element.text


def test_line_hover_holds_every_series_at_a_step() -> None:
    assert hovers(CHARTS["line"].svg) == [
        "step 1\nLoRA 2 (1.5 to 2.5)\nPiSSA <&> 1.9",
        "step 2\nLoRA 1 (0.9 to 1.1)",
        "step 3\nLoRA 0.75 (0.5 to 1)\nPiSSA <&> 0.25",
    ]


def test_line_geometry_is_the_data() -> None:
    path = re.search(r'class="line s1"[^>]*d="([^"]+)"|d="([^"]+)"[^>]*class="line s1"', CHARTS["line"].svg)
    assert path
    points = [tuple(map(float, p.split())) for p in (path[1] or path[2]).lstrip("M").split("L")]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x3 - x2 == pytest.approx(x2 - x1, abs=0.2)
    assert (y3 - y1) / (y2 - y1) == pytest.approx((0.75 - 2) / (1 - 2), abs=0.02)


def test_a_long_line_has_few_columns_with_both_ends() -> None:
    chart = line_chart("t", [Line("LoRA", [(s, s / 7) for s in range(1, 1001)])], LOOK, x_name="step", y_name="y")
    found = hovers(chart.svg)
    assert len(found) < 60 and found[0].startswith("step 1\n") and found[-1].startswith("step 1,000\n")


def test_dot_hover_and_reference() -> None:
    first, _ = hovers(CHARTS["dots"].svg)
    assert first.replace("\u202f", " ") == "LoRA 90.0 %\n95 % interval 88.0 % to 93.0 %\n2 seeds: 89.0 %, 91.0 %"
    assert CHARTS["dots"].svg.count("reference-band") == 1


def test_an_interval_beyond_the_axis_is_drawn_to_its_end_and_told_in_full() -> None:
    """Student's t of a share may leave [0, 1]; its whisker must not run through the values beside the axis."""
    wide = Interval(0.97, 0.9, 1.04)
    svg = dot_chart("t", [Dot("LoRA", wide, LOOK["LoRA"])], x_name="x", percent=True, reference="LoRA").svg
    root = ElementTree.fromstring(svg)
    (axis, whisker) = (next(p for p in root.iter("path") if p.get("class") == c) for c in ("axis", "whisker s1"))
    end = float(re.findall(r"H([\d.]+)", axis.get("d") or "")[0])
    assert float(re.findall(r"H([\d.]+)", whisker.get("d") or "")[0]) == end
    (band,) = (r for r in root.iter("rect") if r.get("class") == "reference-band")
    assert float(band.get("x") or 0) + float(band.get("width") or 0) == pytest.approx(end, abs=0.02)
    assert "104.0" in hovers(svg)[0]
    curve = [Line("LoRA", [(1, 97.0), (2, 99.0)], [(1, 90.0, 104.0), (2, 95.0, 103.0)])]
    chance = Line("chance", [(1, 98.0), (2, 98.0)], [(1, 90.0, 106.0), (2, 90.0, 106.0)])
    shots = shot_chart("t", curve, {**LOOK, **styles(["chance"])}, reference=chance, y_name="y", bounds=(0, 100)).svg
    heights = [float(y) for d in re.findall(r'd="(M[^"]*)"', shots) for y in re.findall(r"V([\d.]+)", d)]
    assert min(heights) >= 30.0  # the top of the frame
    (band,) = (r for r in ElementTree.fromstring(shots).iter("rect") if r.get("class") == "reference-band")
    assert float(band.get("y") or 0) >= 30.0 and float(band.get("height") or 0) > 0


def test_bars_are_proportional_from_zero() -> None:
    chart = bar_chart("t", [Bar("a", 4.0), Bar("b", 1.0), Bar("c", 0.0)], x_name="x")
    boxes = ElementTree.fromstring(chart.svg).iter("rect")
    widths = [float(box.get("width") or 0) for box in boxes if "bar" in (box.get("class") or "")]
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.1) and widths[2] == 1
    assert hovers(chart.svg) == ["a 4", "b 1", "c 0"]


def test_scatter_hover_and_shared_axes() -> None:
    points = [Point("LoRA", "layer 0", 0.5, 0.1), Point("LoRA", "layer 1", 1.0, 0.2)]
    alone = scatter_chart("t", points, LOOK, x_name="shift", y_name="turn")
    shared = scatter_chart("t", points, LOOK, x_name="shift", y_name="turn", scale_to=[Point("LoRA", "", 4.0, 2.0)])
    assert hovers(alone.svg) == [f"{p.name}\nLoRA\nshift {significant(p.x)}\nturn {significant(p.y)}" for p in points]
    assert alone.svg != shared.svg and ">4<" in shared.svg


def test_heat_map_leaves_missing_cells_out_and_shares_a_scale() -> None:
    assert len(hovers(CHARTS["heat"].svg)) == 3 and "a, b & c\ncosine −0.25" in hovers(CHARTS["heat"].svg)
    half = heat_map("t", ["a"], ["b"], [[1.0]], value_name="v", top=2.0).svg
    assert 'fill-opacity="0.5"' in half
    assert "heat-negative" in CHARTS["heat"].svg


def test_names_that_do_not_fit_are_cut_with_an_ellipsis() -> None:
    assert shortened("short", 200) == "short"
    cut = shortened("a very long parameter name indeed", 80)
    assert cut.endswith("…") and text_width(cut) <= 80


@pytest.mark.parametrize(
    ("draw", "error"),
    [
        (lambda: line_chart("t", [Line("LoRA", [(1, math.nan)])], LOOK, x_name="x", y_name="y"), NonFinite),
        (lambda: bar_chart("t", [Bar("a", -1.0)], x_name="x"), NonFinite),
        (lambda: heat_map("t", ["a"], ["a", "b"], [[1.0]], value_name="v"), ShapeMismatch),
        (lambda: scatter_chart("t", [], LOOK, x_name="x", y_name="y"), NonFinite),
    ],
)
def test_refusals(draw, error) -> None:
    with pytest.raises(error):
        draw()


def test_legend_swatches_are_well_formed() -> None:
    for name, color, swatch in legend(LOOK, lines=True):
        assert name in LOOK and color in swatch
        ElementTree.fromstring(swatch)
