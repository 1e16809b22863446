"""Plane chart: two shares of each of several things, each with its interval, and the corner where they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame, left_margin
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import Scale, linear_scale
from dtheta.report.charts.svg import WIDTH, Chart, chart, mark, node
from dtheta.report.quantity import percent
from dtheta.score.interval import Interval

_HEIGHT = 320.0
_CAP = 3.0


@dataclass(frozen=True)
class Spot:
    """A thing at ``x`` and ``y``, shares in [0, 1]; ``name`` is its series, ``note`` is added to the hover text."""

    name: str
    x: Interval
    y: Interval
    note: str = ""


def plane_chart(
    title: str,
    spots: Sequence[Spot],
    style: Mapping[str, Style],
    *,
    x_name: str,
    y_name: str,
    corner: tuple[float, float],
) -> Chart:
    """Spots with whiskers both ways, on axes from 0 to 100 %; ``corner``: x at most and y at least, shaded."""
    top, bottom = 30.0, _HEIGHT - 44
    y = linear_scale([0.0, 1.0], bottom, top, ticks=6, tight=True)
    frame = Frame(left_margin(y, percent=True), WIDTH - 14, top, bottom)
    x = linear_scale([0.0, 1.0], frame.left, frame.right, ticks=6, tight=True)
    goal = node(
        "rect", x=x(0.0), y=top, width=x(corner[0]) - x(0.0), height=y(corner[1]) - top, class_="reference-band"
    )
    axes = [*frame.y_axis(y, f"{y_name}, %", True), *frame.x_axis(x, f"{x_name}, %", True, grid=True), goal]
    marks = [_mark(spot, style[spot.name], x, y, x_name, y_name) for spot in spots]
    said = "; ".join(f"{s.name} {percent(s.x.estimate)}, {percent(s.y.estimate)}" for s in spots)
    aim = f"The goal is at most {percent(corner[0], 0)} and at least {percent(corner[1], 0)}"
    return chart(title, f"Spots of {x_name} and {y_name}: {said}. {aim}.", _HEIGHT, [*axes, *marks])


def _mark(spot: Spot, style: Style, x: Scale, y: Scale, x_name: str, y_name: str) -> Element:
    at, up = x(spot.x.estimate), y(spot.y.estimate)
    (left, right), (low, high) = (x(spot.x.low), x(spot.x.high)), (y(spot.y.low), y(spot.y.high))
    across = f"M{left:.2f} {up:.2f}H{right:.2f}" + "".join(
        f"M{e:.2f} {up - _CAP:.2f}v{2 * _CAP}" for e in (left, right)
    )
    along = f"M{at:.2f} {low:.2f}V{high:.2f}" + "".join(f"M{at - _CAP:.2f} {e:.2f}h{2 * _CAP}" for e in (low, high))
    hover = "\n".join([spot.name, _said(x_name, spot.x), _said(y_name, spot.y), *([spot.note] if spot.note else [])])
    whisker = node("path", d=across + along, class_=f"whisker {style.color}")
    return mark(hover, whisker, style.point(at, up, 5), series=spot.name)


def _said(name: str, found: Interval) -> str:
    return f"{name} {percent(found.estimate)} ({percent(found.low)} to {percent(found.high)})"
