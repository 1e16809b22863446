"""Heat map: a table of numbers as shades of one color, or of two around zero.

A shade is an opacity of the accent color over the page, so the same drawing reads in light, dark and print. Cells that
are wide enough also print their value; a missing cell (None) stays empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from dtheta.errors import ShapeMismatch
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, node, shortened, text_width
from dtheta.report.quantity import fixed, significant

_GAP = 2
_DEEP = 0.66  # the shade at which text turns: dark and light ink have about equal contrast there in both themes
Cells = Sequence[Sequence[float | None]]


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Cells,
    *,
    value_name: str,
    column_name: str = "",
    full_width: float = WIDTH,
    top: float | None = None,
    signed: bool = False,
) -> Chart:
    """Cells [row][column]. ``top`` is the value of the full shade (default: the largest), so panels can share it.

    ``signed`` shades negative values in a second color; ``full_width`` is the drawing's width in pixels.

    Raises:
        ShapeMismatch: If ``cells`` is not rows x columns.
    """
    if len(cells) != len(rows) or any(len(line) != len(columns) for line in cells):
        raise ShapeMismatch(f"{title}: cells must be {len(rows)} rows of {len(columns)} values")
    full = top or max((abs(v) for line in cells for v in line if v is not None), default=0.0) or 1.0
    left = min(150.0, max(text_width(name, 11) for name in rows) + 10)
    width = (full_width - left) / len(columns)
    height = max(18.0, min(34.0, width))
    head = _head(columns, left, width)
    above = _slant(columns, width) + (16 if column_name else 4)
    texts = _texts(cells, full, width)
    parts = [node("g", *head, transform=f"translate(0 {above - 4:.2f})")]
    if column_name:
        parts.append(label(left, 10, column_name, class_="axis-name"))
    for i, (name, line) in enumerate(zip(rows, cells, strict=True)):
        y = above + i * height
        parts.append(label(left - 8, y + height / 2 + 4, shortened(name, left - 8, 11), "end"))
        parts += [
            _cell(
                f"{', '.join(filter(None, (name, column)))}\n{value_name} {significant(value)}",
                value / full,
                texts[i][j],
                signed,
                (left + j * width, y, width - _GAP, height - _GAP),
            )
            for j, (column, value) in enumerate(zip(columns, line, strict=True))
            if value is not None
        ]
    bottom = above + len(rows) * height + 10
    parts += shade_key(left, bottom, value_name, full, signed)
    said = f"Heat map of {value_name}, {len(rows)} rows by {len(columns)} columns, full shade {significant(full, 3)}."
    return chart(title, said, bottom + 32, parts, full_width)


def _cell(hover: str, share: float, text: str, signed: bool, box: tuple[float, float, float, float]) -> Element:
    """A shaded box (x, y, width, height) with its value, if there is room for one."""
    x, y, width, height = box
    shade = min(1.0, abs(share))
    place = {"x": x, "y": y, "width": width, "height": height, "rx": 2}
    color = "heat-negative" if signed and share < 0 else "heat"
    parts = [node("rect", **place, class_="heat-floor"), node("rect", **place, class_=color, fill_opacity=shade)]
    if text:
        ink = "heat-text over" if shade > _DEEP else "heat-text"
        parts.append(label(x + width / 2, y + height / 2 + 3.8, text, "middle", ink))
    return mark(hover, *parts, class_="mark cell")


def _texts(cells: Cells, full: float, width: float) -> list[list[str]]:
    """Values with one number of decimals, as many as have room: three or two digits of the full shade, else none."""
    digits = -math.floor(math.log10(full))
    whole = all(float(v).is_integer() for line in cells for v in line if v is not None)
    for decimals in (0,) if whole else (digits + 2, digits + 1):
        texts = [["" if v is None else fixed(v, max(0, decimals)) for v in line] for line in cells]
        if all(text_width(text, 10.5) <= width - _GAP - 2 for line in texts for text in line):
            return texts
    return [[""] * len(line) for line in cells]


def _slant(columns: Sequence[str], width: float) -> float:
    """Height of the head: one line, or as much as slanted names need."""
    longest = max(text_width(name, 11) for name in columns)
    return 16 if longest < width - 2 else 10 + 0.71 * min(longest, 110.0)


def _head(columns: Sequence[str], left: float, width: float) -> list[Element]:
    """Column names: upright when they fit, else slanted; numbers that are too dense are thinned."""
    longest = max(text_width(name, 11) for name in columns)
    if longest < width - 2 or all(name.isdigit() for name in columns):
        every = max(1, -(-int(longest + 6) // int(width)))
        return [label(left + (j + 0.5) * width - 1, 0, n, "middle") for j, n in enumerate(columns) if j % every == 0]
    names = []
    for j, name in enumerate(columns):
        text = label(0, 0, shortened(name, 110, 11))
        text.set("transform", f"translate({left + (j + 0.5) * width:.2f} 0) rotate(-45)")
        names.append(text)
    return names


def shade_key(left: float, y: float, value_name: str, full: float, signed: bool, none: float = 0.0) -> list[Element]:
    """The color key: what is shaded, and the shades from none (or the negative end) to full."""
    shades = [k / 5 for k in range(-5, 6)] if signed else [k / 10 for k in range(11)]
    low = significant(-full if signed else none, 3)
    x = left + text_width(low, 11) + 5
    parts = [label(left, y + 9, value_name, class_="axis-name"), label(left, y + 25, low)]
    for shade in shades:
        box = {"x": x, "y": y + 16, "width": 9, "height": 10}
        parts.append(node("rect", **box, class_="heat-floor"))
        parts.append(node("rect", **box, class_="heat" if shade >= 0 else "heat-negative", fill_opacity=abs(shade)))
        x += 9
    return [*parts, label(x + 5, y + 25, significant(full, 3))]
