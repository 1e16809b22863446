"""Line chart: series over steps, each a line with an optional band, and one hover column per step.

Hover text lists every series at that step, so curves are compared where the eye is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame, left_margin
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import Scale, linear_scale, log_scale, spread
from dtheta.report.charts.svg import WIDTH, Chart, chart, mark, node
from dtheta.report.quantity import significant

_COLUMNS = 48


@dataclass(frozen=True)
class Line:
    """A series: ``points`` (x, y); ``band`` (x, low, high), e.g. over seeds; ``faint`` raw points behind it."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    faint: Sequence[tuple[float, float]] = ()


def line_chart(
    title: str,
    lines: Sequence[Line],
    style: Mapping[str, Style],
    *,
    x_name: str,
    y_name: str,
    zero: bool = False,
    logarithmic: bool | None = None,
    height: float = 250,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Chart:
    """Lines over a common x. ``y_name`` holds the unit; ``logarithmic`` None decides by the spread of the values.

    ``bounds`` are ends that y cannot pass, as 0 and 100 of a share in percent.
    """
    values = [y for line in lines for y in _all_values(line)]
    log = spread(y for line in lines for _, y in line.points) if logarithmic is None else logarithmic
    top, bottom = 30, height - 44
    y = log_scale(values, bottom, top) if log else linear_scale(values, bottom, top, zero=zero, bounds=bounds)
    frame = Frame(left_margin(y), WIDTH - 10, top, bottom)
    steps = [step for line in lines for step, _ in line.points]
    from_zero = 0 <= min(steps) < 0.1 * max(steps)
    x = linear_scale(
        steps, frame.left, frame.right, ticks=6, zero=from_zero, tight=True, whole=all(map(_is_whole, steps))
    )
    axes = [*frame.y_axis(y, y_name + (" (log scale)" if log else "")), *frame.x_axis(x, x_name)]
    curves = [curve(line, style[line.name], x, y, place) for place, line in enumerate(lines)]
    columns = hover_columns(lines, style, x, y, frame, x_name)
    return chart(title, description(lines, x_name, y_name), height, [*axes, *curves, *columns])


def _is_whole(value: float) -> bool:
    return float(value).is_integer()


def _all_values(line: Line) -> list[float]:
    return [y for _, y in line.points] + [v for _, *bounds in line.band for v in bounds] + [y for _, y in line.faint]


def curve(line: Line, style: Style, x: Scale, y: Scale, place: int) -> Element:
    """Band, faint points, line, and one marker; markers are staggered, since lines often end in one place."""
    parts = []
    if line.band:
        edge = [f"{x(s):.1f} {y(low):.1f}" for s, low, _ in line.band]
        edge += [f"{x(s):.1f} {y(high):.1f}" for s, _, high in reversed(line.band)]
        parts.append(node("path", d="M" + "L".join(edge) + "Z", class_=f"band {style.color}"))
    if line.faint:
        parts.append(node("path", d=_path(line.faint, x, y), class_=f"faint {style.color}"))
    dash = style.dash or "none"
    parts.append(node("path", d=_path(line.points, x, y), class_=f"line {style.color}", stroke_dasharray=dash))
    step, value = line.points[round((len(line.points) - 1) * max(0.3, 1 - 0.12 * place))]
    parts.append(style.point(x(step), y(value)))
    return node("g", *parts, data_series=line.name)


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in points)


def hover_columns(
    lines: Sequence[Line], style: Mapping[str, Style], x: Scale, y: Scale, frame: Frame, x_name: str
) -> list[Element]:
    """At most `_COLUMNS` hover columns, on steps that the series have, always with the first and the last."""
    steps = sorted({step for line in lines for step, _ in line.points})
    every = -(-len(steps) // _COLUMNS)
    shown = sorted({*steps[::every], steps[-1]})
    edges = [frame.left, *((x(a) + x(b)) / 2 for a, b in pairwise(shown)), frame.right]
    found = [(line, dict(line.points), {s: (low, high) for s, low, high in line.band}) for line in lines]
    columns = []
    for step, start, end in zip(shown, edges[:-1], edges[1:], strict=True):
        texts, dots = [f"{x_name} {significant(step)}"], []
        for line, values, band in found:
            if step in values:
                low_high = f" ({significant(band[step][0])} to {significant(band[step][1])})" if step in band else ""
                texts.append(f"{line.name} {significant(values[step])}{low_high}")
                dots.append(style[line.name].point(x(step), y(values[step]), 3.5))
                dots[-1].set("data-series", line.name)
        guide = node("path", d=f"M{x(step):.1f} {frame.top:.1f}V{frame.bottom:.1f}", class_="guide")
        area = node("rect", x=start, y=frame.top, width=end - start, height=frame.height, class_="catch")
        columns.append(mark("\n".join(texts), area, guide, *dots, class_="mark column"))
    return columns


def description(lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """Where every line begins and ends, in words."""
    ends = [f"{line.name} from {significant(line.points[0][1])} to {significant(line.points[-1][1])}" for line in lines]
    return f"Lines of {y_name} over {x_name}: {'; '.join(ends)}."
