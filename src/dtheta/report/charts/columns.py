"""Column chart: shares side by side, standing on zero, with their intervals and the share that is expected of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame, left_margin
from dtheta.report.charts.palette import NEUTRAL, Style
from dtheta.report.charts.scale import Scale, linear_scale
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, node
from dtheta.report.quantity import significant

_HEIGHT = 210.0


@dataclass(frozen=True)
class Pillar:
    """A column of height ``value`` >= 0, with the bounds of its interval, if it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def column_chart(
    title: str,
    pillars: Sequence[Pillar],
    *,
    x_name: str,
    y_name: str,
    expected: float | None = None,
    ends: tuple[str, str] = ("", ""),
    top: float | None = None,
    style: Style = NEUTRAL,
) -> Chart:
    """Columns. ``ends`` are words below the first and the last; ``top`` lets panels share an axis."""
    values = [v for p in pillars for v in (p.value, p.high or 0.0)] + [expected or 0.0, top or 0.0]
    bottom = _HEIGHT - 44
    y = linear_scale(values, bottom, 30, ticks=4, zero=True)
    frame = Frame(left_margin(y), WIDTH - 10, 30, bottom)
    width = (frame.right - frame.left) / len(pillars)
    marks = [_column(p, frame.left + i * width, width, y, frame, style, y_name) for i, p in enumerate(pillars)]
    parts = [*frame.y_axis(y, y_name), *marks]
    if expected is not None:
        parts.append(node("path", d=f"M{frame.left:.2f} {y(expected):.2f}H{frame.right:.2f}", class_="reference"))
    parts.append(node("path", d=f"M{frame.left:.2f} {bottom:.2f}H{frame.right:.2f}", class_="axis"))
    parts += [label(frame.left, bottom + 16, ends[0]), label(frame.right, bottom + 16, ends[1], "end")]
    parts.append(label((frame.left + frame.right) / 2, bottom + 33, x_name, "middle", "axis-name"))
    low, high = (significant(bound(p.value for p in pillars), 3) for bound in (min, max))
    return chart(title, f"{len(pillars)} columns of {y_name} by {x_name}, from {low} to {high}.", _HEIGHT, parts)


def _column(pillar: Pillar, left: float, width: float, y: Scale, frame: Frame, style: Style, y_name: str) -> Element:
    top, middle = y(pillar.value), left + width / 2
    parts = [
        node("rect", x=left, y=frame.top, width=width, height=frame.height, class_="catch"),
        node("rect", x=left + 0.08 * width, y=top, width=0.84 * width, height=max(0.5, frame.bottom - top),
             class_=f"bar pillar {style.color}"),
    ]  # fmt: skip
    hover = f"{pillar.name}\n{y_name} {significant(pillar.value, 3)}"
    if pillar.low is not None and pillar.high is not None:
        ends = f"M{middle:.2f} {y(pillar.low):.2f}V{y(pillar.high):.2f}"
        parts.append(node("path", d=ends, class_="pillar-whisker"))
        hover += f" ({significant(pillar.low, 3)} to {significant(pillar.high, 3)})"
    return mark(hover, *parts, class_="mark row")
