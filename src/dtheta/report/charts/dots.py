"""Dot chart: estimates with their intervals, one row each, against a reference drawn through all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import Scale, linear_scale
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, node, shortened, text_width
from dtheta.report.quantity import fixed, significant
from dtheta.score.interval import Interval

_ROW = 30


@dataclass(frozen=True)
class Dot:
    """A row: ``interval`` with its estimate, or the estimate alone where none is known; ``seeds`` are drawn small."""

    name: str
    interval: Interval
    style: Style
    seeds: Sequence[float] = ()
    known: bool = True


def dot_chart(
    title: str, dots: Sequence[Dot], *, x_name: str, percent: bool = False, reference: str | None = None
) -> Chart:
    """Dots with intervals; with ``percent``, values are shares.

    ``reference`` names the row whose estimate and interval run through all others.
    """
    left = min(130.0, max(text_width(dot.name) for dot in dots) + 12)
    right = WIDTH - max(text_width(_value(dot.interval.estimate, percent), 13) for dot in dots) - 10
    frame = Frame(left, right, 8, 8 + _ROW * len(dots) + 4)
    values = [v for d in dots for v in (d.interval.low, d.interval.high, d.interval.estimate, *d.seeds)]
    bounds = (0.0, 1.0) if percent else (float("-inf"), float("inf"))
    x = linear_scale(values, left, right, ticks=4, bounds=bounds)
    axis = frame.x_axis(x, x_name, percent, grid=True)
    against = [_reference(dot, x, frame) for dot in dots if dot.name == reference]
    rows = [_row(dot, x, frame, i, percent) for i, dot in enumerate(dots)]
    said = "; ".join(_hover(dot, percent).replace("\n", " ") for dot in dots)
    return chart(title, f"Dots of {x_name} with intervals: {said}.", frame.bottom + 42, [*axis, *against, *rows])


def _row(dot: Dot, x: Scale, frame: Frame, index: int, percent: bool) -> Element:
    y = frame.top + _ROW * (index + 0.5) + 2
    low, high, color = x.inside(dot.interval.low), x.inside(dot.interval.high), dot.style.color
    whisker = f"M{low:.2f} {y:.2f}H{high:.2f}M{low:.2f} {y - 4:.2f}v8M{high:.2f} {y - 4:.2f}v8"
    return mark(
        _hover(dot, percent),
        node("rect", x=0, y=y - _ROW / 2, width=WIDTH, height=_ROW, class_="catch"),
        label(0, y + 4, shortened(dot.name, frame.left - 8), class_="row-name"),
        node("path", d=whisker, class_=f"whisker {color}"),
        *(node("circle", cx=x(seed), cy=y + 7, r=1.8, class_=f"seed {color}") for seed in dot.seeds),
        dot.style.point(x(dot.interval.estimate), y, 5),
        label(WIDTH, y + 4, _value(dot.interval.estimate, percent), "end", "value"),
        class_="mark row",
        series=dot.name,
    )


def _reference(dot: Dot, x: Scale, frame: Frame) -> Element:
    low, high, middle = x.inside(dot.interval.low), x.inside(dot.interval.high), x(dot.interval.estimate)
    area = node("rect", x=low, y=frame.top, width=high - low, height=frame.height, class_="reference-band")
    line = node("path", d=f"M{middle:.2f} {frame.top:.2f}V{frame.bottom:.2f}", class_="reference")
    return node("g", area, line, class_="reference-group")


def _hover(dot: Dot, percent: bool) -> str:
    estimate, low, high = (_value(v, percent) for v in (dot.interval.estimate, dot.interval.low, dot.interval.high))
    lines = [f"{dot.name} {estimate}"]
    if dot.known:
        lines.append(f"{100 * dot.interval.level:g} % interval {low} to {high}")
    if dot.seeds:
        lines.append(f"{len(dot.seeds)} seeds: " + ", ".join(_value(seed, percent) for seed in dot.seeds))
    return "\n".join(lines)


def _value(value: float, percent: bool) -> str:
    return f"{fixed(100 * value, 1)}\u202f%" if percent else significant(value, pad=True)
