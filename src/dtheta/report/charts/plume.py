"""Plume chart: the members of an ensemble at one place, each a thin line, with their mean and what happened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dtheta.report.charts.frame import Frame, left_margin
from dtheta.report.charts.line import Line, curve, description, hover_columns
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import linear_scale
from dtheta.report.charts.svg import WIDTH, Chart, chart, node

_HEIGHT = 240.0


def plume_chart(
    title: str,
    x: Sequence[float],
    members: Sequence[Sequence[float]],
    lines: Sequence[Line],
    style: Mapping[str, Style],
    *,
    members_name: str,
    x_name: str,
    y_name: str,
) -> Chart:
    """Members (m, len(x)) behind ``lines``, such as their mean and the truth; all have ``x`` in common."""
    values = [v for member in members for v in member] + [v for line in lines for _, v in line.points]
    top, bottom = 30.0, _HEIGHT - 44
    y = linear_scale(values, bottom, top)
    frame = Frame(left_margin(y), WIDTH - 10, top, bottom)
    across = linear_scale(x, frame.left, frame.right, ticks=6, zero=True, tight=True)
    paths = "".join(
        "M" + "L".join(f"{across(a):.1f} {y(v):.1f}" for a, v in zip(x, member, strict=True)) for member in members
    )
    opacity = max(0.15, min(0.6, 4 / math.sqrt(max(1, len(members))) / 2))
    behind = node("path", d=paths, class_=f"plume {style[members_name].color}", opacity=opacity)
    plume = node("g", behind, data_series=members_name)
    curves = [curve(line, style[line.name], across, y, place) for place, line in enumerate(lines)]
    axes = [*frame.y_axis(y, y_name), *frame.x_axis(across, x_name)]
    said = f"{len(members)} members. {description(lines, x_name, y_name)}"
    columns = hover_columns(lines, style, across, y, frame, x_name)
    return chart(title, said, _HEIGHT, [*axes, plume, *curves, *columns])
