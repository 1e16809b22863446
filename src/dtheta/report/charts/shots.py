"""Shot chart: scores over the number of training examples a class, with an interval at every point.

The axis is logarithmic, with a tick at every number of shots that there is; where several series meet, their whiskers
stand side by side. What needs no training example is a dashed line with a band through the whole chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame, left_margin
from dtheta.report.charts.line import Line, description, hover_columns
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import Scale, linear_scale
from dtheta.report.charts.svg import WIDTH, Chart, chart, node

_HEIGHT = 260.0
_APART = 3.5  # pixels between whiskers of series at one number of shots
_CAP = 3.0


def shot_chart(
    title: str,
    lines: Sequence[Line],
    style: Mapping[str, Style],
    *,
    reference: Line,
    y_name: str,
    bounds: tuple[float, float],
    x_name: str = "shots",
) -> Chart:
    """Lines over shots; the ``band`` of a line holds its intervals, and ``reference`` has one value throughout."""
    shots = sorted({step for line in lines for step, _ in line.points})
    values = [v for line in (*lines, reference) for _, low, high in line.band for v in (low, high)]
    values += [y for line in (*lines, reference) for _, y in line.points]
    top, bottom = 30.0, _HEIGHT - 44
    y = linear_scale(values, bottom, top, bounds=bounds)
    frame = Frame(left_margin(y), WIDTH - 10, top, bottom)
    edge = 0.06 * (frame.right - frame.left)
    ends = (shots[0], shots[-1]) if len(shots) > 1 else (shots[0] / 2, shots[0] * 2)
    x = Scale(*ends, frame.left + edge, frame.right - edge, tuple(shots), True)
    axes = [*frame.y_axis(y, y_name), *frame.x_axis(x, x_name), _through(reference, y, frame)]
    curves = [_curve(line, style[line.name], x, y, i - (len(lines) - 1) / 2) for i, line in enumerate(lines)]
    every = [*lines, reference]
    return chart(
        title,
        description(every, x_name, y_name),
        _HEIGHT,
        [*axes, *curves, *hover_columns(every, style, x, y, frame, x_name)],
    )


def _curve(line: Line, style: Style, x: Scale, y: Scale, place: float) -> Element:
    places = {step: x(step) + _APART * place for step, _ in line.points}
    path = "M" + "L".join(f"{places[step]:.1f} {y(value):.1f}" for step, value in line.points)
    parts = [node("path", d=path, class_=f"line {style.color}", stroke_dasharray=style.dash or "none")]
    for step, low, high in line.band:
        at, ends = places[step], (y.inside(low), y.inside(high))
        caps = "".join(f"M{at - _CAP:.1f} {end:.1f}h{2 * _CAP:.1f}" for end in ends)
        parts.append(node("path", d=f"M{at:.1f} {ends[0]:.1f}V{ends[1]:.1f}{caps}", class_=f"whisker {style.color}"))
    parts += [style.point(places[step], y(value), 3.5) for step, value in line.points]
    return node("g", *parts, data_series=line.name)


def _through(reference: Line, y: Scale, frame: Frame) -> Element:
    (_, value), (_, low, high) = reference.points[0], reference.band[0]
    top, bottom = y.inside(high), y.inside(low)
    area = node(
        "rect",
        x=frame.left,
        y=top,
        width=frame.right - frame.left,
        height=bottom - top,
        class_="reference-band",
    )
    line = node("path", d=f"M{frame.left:.2f} {y(value):.2f}H{frame.right:.2f}", class_="reference")
    return node("g", area, line, class_="reference-group", data_series=reference.name)
