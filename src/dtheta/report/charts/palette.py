"""Palette: which color, marker and dash a series has, the same on every chart of a page.

Colors are classes s1..s6, set in the style sheet for light, dark and print; they stay apart under deuteranopia,
protanopia and tritanopia (tests/unit/report/test_palette.py simulates them), and no series is told by color alone:
each has its own marker, and its own dash on lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dtheta.report.charts.svg import markup, node

_MARKERS = ("circle", "square", "triangle", "diamond", "cross", "ring")
_DASHES = ("", "7 3", "2.5 2.5", "9 3 2 3", "4 4", "12 4")


@dataclass(frozen=True)
class Style:
    """Look of one series: color class, marker shape, dash pattern of its lines."""

    color: str
    marker: str
    dash: str

    def point(self, x: float, y: float, radius: float = 4) -> Element:
        """The marker at (x, y)."""
        return _shape(self.marker, x, y, radius, f"point {self.color}")


NEUTRAL = Style("s0", "bar", "")


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style per name, in order; after six the colors repeat with other markers."""
    unique = list(dict.fromkeys(names))
    return {
        name: Style(f"s{i % 6 + 1}", _MARKERS[(i + i // 6) % 6], _DASHES[(i + i // 6) % 6])
        for i, name in enumerate(unique)
    }


def legend(series: dict[str, Style], lines: bool = False) -> tuple[tuple[str, str, str], ...]:
    """(name, color class, swatch markup) per series; ``lines`` draws the dash behind the marker."""
    return tuple((name, style.color, _swatch(style, lines)) for name, style in series.items())


def _swatch(style: Style, lines: bool) -> str:
    path = [node("path", d="M1 7H27", class_=f"line {style.color}", stroke_dasharray=style.dash or "none")] * lines
    return markup(node("svg", *path, style.point(14, 7), viewBox="0 0 28 14", class_="swatch", aria_hidden="true"))


def _shape(marker: str, x: float, y: float, r: float, class_: str) -> Element:
    if marker in ("circle", "ring"):
        return node("circle", cx=x, cy=y, r=r, class_=class_ + (" hollow" if marker == "ring" else ""))
    if marker == "bar":
        return node("rect", x=x - 1.5, y=y - 1.6 * r, width=3, height=3.2 * r, class_=class_)
    if marker == "cross":
        d = f"M{x - r:.2f} {y - r:.2f}L{x + r:.2f} {y + r:.2f}M{x - r:.2f} {y + r:.2f}L{x + r:.2f} {y - r:.2f}"
        return node("path", d=d, class_=class_ + " stroked")
    corners, turn = {"square": (4, math.pi / 4), "diamond": (4, 0.0), "triangle": (3, -math.pi / 2)}[marker]
    size = r * (1.25 if corners == 4 else 1.35)
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    places = [f"{x + size * math.cos(a):.2f},{y + size * math.sin(a):.2f}" for a in angles]
    return node("polygon", points=" ".join(places), class_=class_)
