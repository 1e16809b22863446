"""Scatter chart: points (x, y) of several series, each with its own marker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame, left_margin
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import linear_scale, log_scale, spread
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, shortened
from dtheta.report.quantity import plural, significant


@dataclass(frozen=True)
class Point:
    """A point of ``series``; ``name`` says what it is, ``note`` is added to the hover text."""

    series: str
    name: str
    x: float
    y: float
    note: str = ""


def scatter_chart(
    title: str,
    points: Sequence[Point],
    style: Mapping[str, Style],
    *,
    x_name: str,
    y_name: str,
    logarithmic: bool | None = None,
    scale_to: Sequence[Point] = (),
    height: float = 280,
    named: bool = False,
) -> Chart:
    """Points with linear y from zero; x is linear from zero, or logarithmic where it spans a factor above 30.

    ``scale_to``: points that set the axes (default: those drawn), so that panels side by side can share them;
    ``named`` writes its name beside every point.
    """
    xs, ys = [point.x for point in scale_to or points], [point.y for point in scale_to or points]
    top, bottom = 30, height - 44
    y = linear_scale(ys, bottom, top, ticks=6, zero=True)
    frame = Frame(left_margin(y), WIDTH - 12, top, bottom)
    log = spread(xs) if logarithmic is None else logarithmic
    x = log_scale(xs, frame.left, frame.right) if log else linear_scale(xs, frame.left, frame.right, ticks=6, zero=True)
    axes = [*frame.y_axis(y, y_name), *frame.x_axis(x, x_name + (" (log scale)" if log else ""), grid=True)]
    marks = [
        mark(
            f"{p.name}\n{p.series}\n{x_name} {significant(p.x)}\n{y_name} {significant(p.y)}"
            + (f"\n{p.note}" if p.note else ""),
            style[p.series].point(x(p.x), y(p.y), 4),
            *([_name(p.name, x(p.x), y(p.y))] if named else []),
            series=p.series,
        )
        for p in sorted(points, key=lambda p: p.x)
    ]
    series = list(dict.fromkeys(p.series for p in points))
    said = f"{plural(len(points), 'point')} of {', '.join(series)}: {y_name} over {x_name}."
    return chart(title, said, height, [*axes, *marks])


def _name(text: str, x: float, y: float) -> Element:
    """A name beside a point, on the side where there is room."""
    left = x > WIDTH / 2
    return label(x + (-8 if left else 8), y - 5, shortened(text, WIDTH / 2 - 20), "end" if left else "start")
