"""Digits written by hand, as it were: ten digits as strokes of our own, bent, slanted and thickened at random.

A stroke is a smooth curve (Catmull and Rom 1974) through control points in the unit square, y down; a point written
twice is a corner. Each digit has the variants that people write: a one with and without its flag, a seven with and
without its bar, an open and a closed four.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

Point = tuple[float, float]
Stroke = tuple[Point, ...]

DIGITS: dict[str, tuple[tuple[Stroke, ...], ...]] = {
    "0": (
        (((0.5, 0), (0.2, 0.15), (0.1, 0.5), (0.22, 0.87), (0.5, 1), (0.8, 0.85), (0.9, 0.5), (0.78, 0.13), (0.5, 0)),),
        (((0.6, 0.03), (0.25, 0.12), (0.1, 0.5), (0.25, 0.92), (0.6, 0.98), (0.88, 0.6), (0.8, 0.2), (0.45, 0)),),
    ),
    "1": (
        (((0.5, 0), (0.5, 1)),),
        (((0.28, 0.22), (0.52, 0), (0.52, 0), (0.52, 1)),),
        (((0.3, 0.2), (0.5, 0), (0.5, 0), (0.5, 1)), ((0.25, 1), (0.75, 1))),
    ),
    "2": (
        (((0.12, 0.25), (0.35, 0.02), (0.7, 0.05), (0.85, 0.28), (0.65, 0.58), (0.1, 1), (0.1, 1), (0.92, 1)),),
        (
            (
                (0.12, 0.22),
                (0.4, 0),
                (0.78, 0.12),
                (0.72, 0.45),
                (0.4, 0.85),
                (0.15, 0.97),
                (0.12, 0.8),
                (0.35, 0.78),
                (0.6, 0.95),
                (0.95, 0.92),
            ),
        ),
    ),
    "3": (
        (
            (
                (0.12, 0.13),
                (0.45, 0),
                (0.8, 0.15),
                (0.72, 0.38),
                (0.4, 0.47),
                (0.4, 0.47),
                (0.8, 0.58),
                (0.87, 0.83),
                (0.5, 1),
                (0.1, 0.88),
            ),
        ),
        (
            (
                (0.15, 0.02),
                (0.85, 0),
                (0.85, 0),
                (0.42, 0.4),
                (0.42, 0.4),
                (0.82, 0.55),
                (0.85, 0.84),
                (0.5, 1),
                (0.1, 0.9),
            ),
        ),
    ),
    "4": (
        (((0.22, 0), (0.12, 0.55), (0.12, 0.55), (0.9, 0.53)), ((0.72, 0.08), (0.68, 1))),
        (((0.7, 1), (0.7, 0), (0.7, 0), (0.08, 0.66), (0.08, 0.66), (0.95, 0.66)),),
        (((0.2, 0.05), (0.15, 0.38), (0.4, 0.52), (0.75, 0.4)), ((0.78, 0), (0.72, 1))),
    ),
    "5": (
        (
            (
                (0.85, 0),
                (0.25, 0),
                (0.25, 0),
                (0.2, 0.43),
                (0.2, 0.43),
                (0.6, 0.38),
                (0.88, 0.65),
                (0.6, 0.97),
                (0.1, 0.92),
            ),
        ),
        (
            ((0.22, 0.05), (0.2, 0.42), (0.2, 0.42), (0.65, 0.42), (0.82, 0.72), (0.5, 1), (0.1, 0.9)),
            ((0.22, 0.05), (0.9, 0)),
        ),
    ),
    "6": (
        (
            (
                (0.72, 0),
                (0.35, 0.25),
                (0.14, 0.65),
                (0.3, 0.96),
                (0.65, 0.97),
                (0.85, 0.74),
                (0.62, 0.52),
                (0.3, 0.6),
                (0.17, 0.78),
            ),
        ),
        (((0.4, 0), (0.18, 0.4), (0.15, 0.8), (0.45, 1), (0.82, 0.82), (0.7, 0.55), (0.4, 0.55), (0.17, 0.75)),),
    ),
    "7": (
        (((0.08, 0.02), (0.9, 0), (0.9, 0), (0.58, 0.48), (0.4, 1)),),
        (((0.1, 0.12), (0.12, 0), (0.12, 0), (0.88, 0.02), (0.88, 0.02), (0.6, 1)),),
        (((0.08, 0), (0.9, 0), (0.9, 0), (0.45, 1)), ((0.28, 0.5), (0.85, 0.48))),
    ),
    "8": (
        (
            (
                (0.5, 0.47),
                (0.2, 0.3),
                (0.28, 0.06),
                (0.58, 0),
                (0.82, 0.18),
                (0.5, 0.47),
                (0.16, 0.75),
                (0.3, 0.97),
                (0.65, 1),
                (0.86, 0.76),
                (0.5, 0.47),
            ),
        ),
        (
            (
                (0.82, 0.12),
                (0.5, 0),
                (0.2, 0.18),
                (0.42, 0.43),
                (0.75, 0.65),
                (0.75, 0.92),
                (0.42, 1),
                (0.2, 0.8),
                (0.45, 0.52),
                (0.8, 0.22),
                (0.78, 0.1),
            ),
        ),
    ),
    "9": (
        (
            (
                (0.82, 0.2),
                (0.55, 0),
                (0.2, 0.12),
                (0.2, 0.42),
                (0.52, 0.5),
                (0.82, 0.2),
                (0.82, 0.2),
                (0.74, 0.6),
                (0.66, 1),
            ),
        ),
        (
            (
                (0.8, 0.18),
                (0.5, 0),
                (0.18, 0.15),
                (0.22, 0.43),
                (0.55, 0.5),
                (0.8, 0.25),
                (0.84, 0.55),
                (0.68, 0.9),
                (0.25, 1),
            ),
        ),
    ),
}

_STEPS = 8  # straight pieces to draw between two control points


def written_digit(digit: str, draw: random.Random) -> list[list[Point]]:
    """Return one way to write ``digit`` as broken lines that fill the unit square (y down), moved by random hands.

    Args:
        digit: ``"0"`` to ``"9"``.
        draw: source of the randomness: the variant, a jitter of the control points, a slow bend, and a slant.
    """
    strokes = draw.choice(DIGITS[digit])
    wobble = draw.uniform(0, 0.05)
    lines = [_curve([_jittered(point, wobble, draw) for point in stroke]) for stroke in strokes]
    bend, phase, slant = draw.uniform(0, 0.06), draw.uniform(0, 2 * math.pi), draw.gauss(0.1, 0.22)
    turn = draw.gauss(0, 0.12)
    moved = [[_rotated(_bent(point, bend, phase, slant), turn) for point in line] for line in lines]
    return _fitted(moved, draw.uniform(0.8, 1.25))


def _curve(points: Sequence[Point]) -> list[Point]:
    padded = [points[0], *points, points[-1]]
    curve = [points[0]]
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        curve += [_catmull_rom(a, b, c, d, step / _STEPS) for step in range(1, _STEPS + 1)]
    return curve


def _catmull_rom(a: Point, b: Point, c: Point, d: Point, t: float) -> Point:
    def along(a: float, b: float, c: float, d: float) -> float:
        return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))

    return along(a[0], b[0], c[0], d[0]), along(a[1], b[1], c[1], d[1])


def _jittered(point: Point, wobble: float, draw: random.Random) -> Point:
    return point[0] + draw.gauss(0, wobble), point[1] + draw.gauss(0, wobble)


def _bent(point: Point, bend: float, phase: float, slant: float) -> Point:
    x, y = point
    return x + bend * math.sin(4 * y + phase) + slant * (0.5 - y), y + bend * math.sin(4 * x + 2 * phase)


def _rotated(point: Point, angle: float) -> Point:
    x, y = point[0] - 0.5, point[1] - 0.5
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def _fitted(lines: list[list[Point]], stretch: float) -> list[list[Point]]:
    """Scale lines into the unit square about its center; ``stretch`` is how much wider than written."""
    xs = [stretch * x for line in lines for x, _ in line]
    ys = [y for line in lines for _, y in line]
    size = max(max(xs) - min(xs), max(ys) - min(ys))
    left, top = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return [[(0.5 + (stretch * x - left) / size, 0.5 + (y - top) / size) for x, y in line] for line in lines]
