"""Reliability chart: how often an event happened against the probability that it was given, with how often that was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.frame import Frame
from dtheta.report.charts.palette import Style
from dtheta.report.charts.scale import Scale
from dtheta.report.charts.svg import Chart, chart, mark, node
from dtheta.report.quantity import percent

_HEIGHT, _SIDE = 330.0, 262.0
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Class:
    """Forecasts of about one probability.

    Attributes:
        probability: Mean of the forecasts.
        frequency: How often the event happened.
        share: Of all forecasts.
        low, high: Bounds of the frequency; None without.
    """

    probability: float
    frequency: float
    share: float
    low: float | None = None
    high: float | None = None


def reliability_chart(title: str, classes: Sequence[Class], style: Style, *, base_rate: float) -> Chart:
    """Classes on the unit square; the diagonal is perfect, ``base_rate`` is how often the event happened at all."""
    frame = Frame(36, 36 + _SIDE, 28, 28 + _SIDE)
    x, y = Scale(0, 1, frame.left, frame.right, _TICKS), Scale(0, 1, frame.bottom, frame.top, _TICKS)
    level = f"M{frame.left:.2f} {y(base_rate):.2f}H{frame.right:.2f}"
    parts = [
        *frame.y_axis(y, "how often it happened, %", percent=True),
        *frame.x_axis(x, "probability that was forecast, %", percent=True, grid=True),
        node("path", d=f"M{x(0):.2f} {y(0):.2f}L{x(1):.2f} {y(1):.2f}", class_="axis"),
        node("path", d=level, class_="reference"),
    ]
    if len(classes) > 1:
        path = "M" + "L".join(f"{x(c.probability):.1f} {y(c.frequency):.1f}" for c in classes)
        parts.append(node("path", d=path, class_=f"line {style.color}"))
    parts += [_mark(one, x, y, style) for one in classes]
    said = f"{len(classes)} classes of probability; the event happened in {percent(base_rate)} of all cases."
    return chart(title, said, _HEIGHT, parts)


def _mark(one: Class, x: Scale, y: Scale, style: Style) -> Element:
    hover = f"forecast {percent(one.probability)}\nhappened {percent(one.frequency)}"
    parts = []
    if one.low is not None and one.high is not None:
        hover += f" ({percent(one.low)} to {percent(one.high)})"
        ends = f"M{x(one.probability):.2f} {y(one.low):.2f}V{y(one.high):.2f}"
        parts.append(node("path", d=ends, class_=f"whisker {style.color}"))
    parts.append(node("circle", cx=x(one.probability), cy=y(one.frequency), r=2.5 + 6 * one.share**0.5,
                      class_=f"point {style.color}"))  # fmt: skip
    return mark(f"{hover}\n{percent(one.share)} of forecasts", *parts)
