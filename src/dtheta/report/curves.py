"""Curves of several seeds as one line with a band, smoothed where single steps are too noisy to read."""

from __future__ import annotations

from collections.abc import Sequence

from dtheta.report.charts.line import Line
from dtheta.report.results import Curve

_STEPS_TO_READ = 20  # above this many points, single minibatch losses hide the trend


def seed_line(name: str, curves: Sequence[Curve], window: int = 1) -> Line:
    """Mean over seeds at the steps that all seeds have; band from the lowest to the highest seed.

    A ``window`` above 1 is a centered running mean over that many points; the raw mean is then drawn faintly behind.
    """
    smooth = [dict(smoothed(curve, window)) for curve in curves]
    steps = sorted(set.intersection(*(set(curve) for curve in smooth)))
    columns = [(step, [curve[step] for curve in smooth]) for step in steps]
    mean = [(step, sum(values) / len(values)) for step, values in columns]
    band = [(step, min(values), max(values)) for step, values in columns] if len(curves) > 1 else []
    raw = [dict(curve) for curve in curves]
    faint = [(step, sum(curve[step] for curve in raw) / len(raw)) for step in steps] if window > 1 else []
    return Line(name, mean, band, faint)


def smoothed(curve: Curve, window: int) -> Curve:
    """Centered running mean; at the ends the window is cut to the points there are."""
    half = window // 2
    means = []
    for i, (step, _) in enumerate(curve):
        near = [value for _, value in curve[max(0, i - half) : i + half + 1]]
        means.append((step, sum(near) / len(near)))
    return tuple(means)


def reading_window(curves: Sequence[Curve]) -> int:
    """An odd window of about a tenth of the points where there are many, else 1."""
    points = min(len(curve) for curve in curves)
    return 1 if points <= _STEPS_TO_READ else 2 * (points // 20) + 1
