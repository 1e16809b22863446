"""Field map: values on latitudes and longitudes as shades of one color, or of two around zero.

The field is one small picture, used as a mask over the accent color, so the same drawing reads in light, dark and
print. Marks lie on a coarse grid over it and tell the value of the cell in their middle.

Shape legend: H latitudes from north to south, W longitudes.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from dtheta.errors import NonFinite, ShapeMismatch
from dtheta.report.charts.heat import shade_key
from dtheta.report.charts.svg import WIDTH, Chart, chart, label, mark, node
from dtheta.report.quantity import significant

_LEFT, _TOP = 30.0, 6.0
_MARKS = (6, 12)  # rows and columns of marks, at most

Values = npt.NDArray[np.floating]


def field_map(
    title: str,
    values_HW: Values,
    latitudes: Sequence[float],
    longitudes: Sequence[float],
    *,
    value_name: str,
    full: float | None = None,
    none: float = 0.0,
    signed: bool = False,
) -> Chart:
    """Values on a grid. ``full`` and ``none`` are those of the full shade and of no shade, so panels can share them.

    Raises:
        ShapeMismatch: If there is not one value for each latitude and longitude.
        NonFinite: If a value is NaN or infinite.
    """
    values = np.asarray(values_HW, dtype=float)
    if values.shape != (len(latitudes), len(longitudes)):
        raise ShapeMismatch(
            f"{title}: {values.shape} values for {len(latitudes)} latitudes, {len(longitudes)} longitudes"
        )
    if not np.isfinite(values).all():
        raise NonFinite(f"{title}: {int((~np.isfinite(values)).sum())} values are NaN or infinite")
    top = float(np.abs(values).max() if signed else values.max()) if full is None else full
    shares = (values - (0.0 if signed else none)) / ((top - (0.0 if signed else none)) or 1.0)
    box = _box(latitudes, longitudes)
    parts = [node("rect", **box, class_="heat-floor map-floor")]
    for shade, color in ((shares, "heat"), (-shares, "heat-negative"))[: 1 + signed]:
        parts += _shaded(title + value_name, np.clip(shade, 0, 1), color, box)
    parts += _graticule(latitudes, longitudes, box)
    parts += _marks(values, latitudes, longitudes, box, value_name)
    bottom = _TOP + box["height"] + 24
    parts += shade_key(_LEFT, bottom, value_name, top, signed, none)
    low, high = significant(float(values.min()), 3), significant(float(values.max()), 3)
    return chart(title, f"Map of {value_name}, from {low} to {high}.", bottom + 32, parts)


def _box(latitudes: Sequence[float], longitudes: Sequence[float]) -> dict[str, Any]:
    width = WIDTH - _LEFT - 8
    across = max(abs(longitudes[-1] - longitudes[0]) * len(longitudes) / max(1, len(longitudes) - 1), 1e-6)
    down = max(abs(latitudes[0] - latitudes[-1]) * len(latitudes) / max(1, len(latitudes) - 1), 1e-6)
    return {"x": _LEFT, "y": _TOP, "width": width, "height": min(260.0, max(110.0, width * down / across))}


def _shaded(key: str, shares: Values, color: str, box: dict[str, Any]) -> list[Element]:
    """The accent color through a picture of the shares as a mask."""
    picture = grayscale_png(np.rint(255 * shares).astype(np.uint8))
    name = "m" + hashlib.blake2b(key.encode() + color.encode() + picture, digest_size=8).hexdigest()
    image = node("image", **box, preserveAspectRatio="none", class_="map-image")
    image.set("href", f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}")
    mask = node("mask", image, **box, maskUnits="userSpaceOnUse", id=name)
    return [mask, node("rect", **box, class_=color, mask=f"url(#{name})")]


def grayscale_png(pixels_HW: npt.NDArray[np.uint8]) -> bytes:
    """Return bytes (H, W) as a PNG file of 8-bit gray."""
    height, width = pixels_HW.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels_HW)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _graticule(latitudes: Sequence[float], longitudes: Sequence[float], box: dict[str, Any]) -> list[Element]:
    """Parallels and meridians at round degrees, with their names."""
    parts = []
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    for degree in _round(latitudes, (30, 10, 5, 1)):
        y = box["y"] + box["height"] * _share(degree, latitudes)
        parts.append(node("path", d=f"M{box['x']:.1f} {y:.1f}H{right:.1f}", class_="map-line"))
        parts.append(label(box["x"] - 4, y + 4, _compass(degree, "N", "S"), "end"))
    for degree in _round(longitudes, (90, 30, 10, 5, 1)):
        x = box["x"] + box["width"] * _share(degree, longitudes)
        parts.append(node("path", d=f"M{x:.1f} {box['y']:.1f}V{bottom:.1f}", class_="map-line"))
        parts.append(label(x, bottom + 13, _meridian(degree), "middle"))
    return parts


def _round(values: Sequence[float], steps: Sequence[int]) -> list[float]:
    """Round degrees inside a range, two at least if there can be."""
    low, high = min(values), max(values)
    found: list[float] = []
    for step in steps:
        first = -(-low // step)
        found = [step * k for k in range(int(first), int(high // step) + 1)]
        if len(found) >= 2:
            break
    return found


def _share(degree: float, values: Sequence[float]) -> float:
    """Where a degree lies along an axis of cells, from 0 to 1: cells are as wide as they are many."""
    ends = np.asarray(values, dtype=float)
    order = np.argsort(ends)
    place = float(np.interp(degree, ends[order], order.astype(float)))
    return (place + 0.5) / len(ends)


def _compass(degree: float, positive: str, negative: str) -> str:
    return "0°" if degree == 0 else f"{abs(degree):g}°{positive if degree > 0 else negative}"


def _meridian(degree: float) -> str:
    east = (degree + 180) % 360 - 180
    return "180°" if east == -180 else _compass(east, "E", "W")


def _marks(
    values: Values, latitudes: Sequence[float], longitudes: Sequence[float], box: dict[str, Any], value_name: str
) -> list[Element]:
    rows, columns = (min(most, size) for most, size in zip(_MARKS, values.shape, strict=True))
    height, width = box["height"] / rows, box["width"] / columns
    found = []
    for i in range(rows):
        for j in range(columns):
            h, w = (
                int((k + 0.5) * size / most)
                for k, size, most in ((i, len(latitudes), rows), (j, len(longitudes), columns))
            )
            place = f"{_compass(round(latitudes[h], 1), 'N', 'S')}, {_meridian(round(longitudes[w], 1))}"
            area = node(
                "rect", x=box["x"] + j * width, y=box["y"] + i * height, width=width, height=height, class_="catch"
            )
            found.append(
                mark(f"{place}\n{value_name} {significant(float(values[h, w]))}", area, class_="mark map-mark")
            )
    return found
