"""Bar chart: lengths from zero, one row each, with the value at the end of the bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.errors import NonFinite
from dtheta.report.charts.palette import NEUTRAL, Style
from dtheta.report.charts.scale import Scale, linear_scale
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, node, shortened, text_width
from dtheta.report.quantity import significant

_ROW = 26


@dataclass(frozen=True)
class Bar:
    """A row of length ``value`` >= 0; ``note`` is added to the hover text."""

    name: str
    value: float
    style: Style = NEUTRAL
    note: str = ""


def bar_chart(title: str, bars: Sequence[Bar], *, x_name: str, text: Callable[[float], str] = significant) -> Chart:
    """Horizontal bars from zero; ``text`` writes a value with its unit. There is no axis: every bar says its value."""
    if any(not 0 <= bar.value < float("inf") for bar in bars):
        raise NonFinite(f"{title}: bars start at zero, so they need finite values >= 0")
    left = min(150.0, max(text_width(bar.name) for bar in bars) + 10)
    right = WIDTH - max(text_width(text(bar.value), 13) for bar in bars) - 8
    x = linear_scale([max(bar.value for bar in bars)], left, right, zero=True, tight=True)
    rows = [_row(bar, x, left, i, text) for i, bar in enumerate(bars)]
    foot = label(left, _ROW * len(bars) + 16, x_name, class_="axis-name")
    said = "; ".join(f"{bar.name} {text(bar.value)}" for bar in bars)
    return chart(title, f"Bars of {x_name}: {said}.", _ROW * len(bars) + 24, [*rows, foot])


def _row(bar: Bar, x: Scale, left: float, index: int, text: Callable[[float], str]) -> Element:
    top = _ROW * index
    length = max(1.0, x(bar.value) - left)
    hover = f"{bar.name} {text(bar.value)}" + (f"\n{bar.note}" if bar.note else "")
    return mark(
        hover,
        node("rect", x=0, y=top, width=WIDTH, height=_ROW, class_="catch"),
        label(left - 8, top + 17, shortened(bar.name, left - 8), "end", "row-name"),
        node("rect", x=left, y=top + 4, width=length, height=_ROW - 8, rx=2, class_=f"bar {bar.style.color}"),
        label(left + length + 6, top + 17, text(bar.value), class_="value"),
        class_="mark row",
        series=bar.name,
    )
