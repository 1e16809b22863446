"""SVG as a tree of elements: escaped and well-formed by construction.

Colors, fonts and dark mode live in the page's style sheet; a chart names classes only. Everything that carries a value
is a *mark*: it has a `<title>` (hover text without script), can take the focus, and the page's script moves between
the marks of a chart with the arrow keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

WIDTH = 360  # every panel is drawn at this width in CSS pixels, so that text has one size on the whole page
FONT = 12

_NARROW, _WIDE = "fijlrtI.,:;|!'()[] /", "mwMW@%"


@dataclass(frozen=True)
class Chart:
    """A drawn chart: ``svg`` markup, its ``title`` and a ``description`` in words for those who cannot see it."""

    title: str
    description: str
    svg: str
    width: float = WIDTH


def node(tag: str, *children: Element, text: str | None = None, **attributes: str | float) -> Element:
    """An element; ``class_`` becomes class, other underscores become hyphens, numbers are rounded to 0.01 px."""
    names = {name.rstrip("_").replace("_", "-"): _attribute(value) for name, value in attributes.items()}
    element = Element(tag, names)
    element.text = text
    element.extend(children)
    return element


def label(x: float, y: float, text: str, anchor: str = "start", class_: str = "tick") -> Element:
    """A line of text at (x, y); ``anchor`` is start, middle or end."""
    return node("text", x=x, y=y, text=text, text_anchor=anchor, class_=class_)


def mark(hover: str, *children: Element, class_: str = "mark", series: str = "") -> Element:
    """A group that carries a value; ``hover`` may have several lines; a legend can hide the marks of a ``series``."""
    group = node("g", node("title", text=hover), *children, class_=class_, data_mark="", tabindex=-1)
    if series:
        group.set("data-series", series)
    return group


def chart(title: str, description: str, height: float, nodes: Iterable[Element], width: float = WIDTH) -> Chart:
    """Close the drawing: the first mark becomes the one that Tab reaches."""
    root = node(
        "svg",
        node("title", text=title),
        node("desc", text=description),
        *nodes,
        viewBox=f"0 0 {_attribute(width)} {_attribute(height)}",
        role="img",
        class_="chart",
        aria_label=f"{title}. {description}",
        style=f"--natural-width:{_attribute(width)}px",
    )
    first = next((element for element in root.iter("g") if "data-mark" in element.attrib), None)
    if first is not None:
        first.set("tabindex", "0")
    return Chart(title, description, markup(root), width)


def markup(element: Element) -> str:
    """The element as text."""
    return ElementTree.tostring(element, encoding="unicode")


def text_width(text: str, size: float = FONT) -> float:
    """Estimated width in pixels in a sans-serif face; errs on the wide side, so that labels do not collide."""
    units = sum(0.4 if c in _NARROW else 0.95 if c in _WIDE else 0.72 if c.isupper() else 0.62 for c in text)
    return units * size


def shortened(text: str, width: float, size: float = FONT) -> str:
    """``text``, or its start and an ellipsis, within ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
