"""The figures of bench/ntk.py as one page, drawn by the charts of the reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.report.blocks import Panels
from dtheta.report.charts import Chart, Line, Point, line_chart, scatter_chart, styles
from dtheta.report.page import Page, Section

_POINTS = 81  # points of a line that are drawn


def draw(records: Mapping[str, Any], folder: Path) -> Path:
    """Write ntk.html with what was measured, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"kernel": kernel, "functions": functions, "components": components, "limit": limit}
    sections = [make(*records[name]) for name, make in drawn.items() if name in records]
    verdict = "Wide networks train as their tangent kernel says; narrow ones faster, and each in its own way."
    return Page("Figures of the NTK paper", verdict, sections, "after arXiv 1806.07572").render(folder / "ntk.html")


def kernel(angles: Tensor, exact: Tensor, narrow: Any, wide: Any) -> Section:
    """The kernel over the circle."""
    names = [f"width {narrow.width}", f"width {wide.width}", "infinite width"]
    style = styles(names)
    charts = []
    scale = [float(v) for one in (narrow, wide) for v in (one.before.amin(), one.after.amax())]
    for title, at in (("Before training", "before"), ("After 200 steps", "after")):
        lines = [spread_line(name, angles, getattr(one, at)) for name, one in zip(names, (narrow, wide), strict=False)]
        lines.append(Line(names[2], pairs(angles, exact)))
        charts.append(line(title, lines, style, "angle (radians)", "kernel with angle 0", scale))
    caption = (
        f"Median over {len(narrow.before)} initializations, and the band that all of them lie in; "
        f"{len(wide.after)} of width {wide.width} were trained."
    )
    return Section("The kernel over the circle", [Panels(charts, caption, styles=style, lines=True)])


def functions(angles: Tensor, at: Tensor, target: Tensor, gaussian: Any, found: Mapping[int, Tensor]) -> Section:
    """Functions after training."""
    names = ["networks", "Gaussian limit"]
    style = styles(names)
    mean, width90 = gaussian.mean[:, 0], 1.2816 * gaussian.deviation
    exact = Line(names[1], pairs(angles, mean), band(angles, mean - width90, mean + width90))
    scale = [float(v) for outputs in found.values() for v in (outputs.min(), outputs.max())]
    charts = []
    for width, outputs in found.items():
        low, middle, high = outputs.double().quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 0)
        lines = [Line(names[0], pairs(angles, middle), band(angles, low, high)), exact]
        charts.append(line(f"Width {width}", lines, style, "angle (radians)", "output", scale))
    points = ", ".join(f"{float(y):.2f} at {float(a):.1f}" for a, y in zip(at, target, strict=True))
    caption = f"Median, and 10 to 90 percentiles, of 10 networks after 1000 steps and of the limit. Learned: {points}."
    return Section("Functions after training", [Panels(charts, caption, styles=style, lines=True)])


def components(pca: Any, labels: Tensor, paths: Sequence[Any]) -> Section:
    """Digits along the principal functions, and how the error along the second one decays."""
    digit = [str(int(label)) for label in labels]
    shown = styles(sorted(set(digit)))
    f = pca.functions
    points = [Point(d, f"digit {d}", float(a), float(b)) for d, a, b in zip(digit, f[:, 1], f[:, 2], strict=True)]
    cloud = scatter_chart("Digits along two components", points, shown, x_name="component 2", y_name="component 3",
                          logarithmic=False)  # fmt: skip
    names = {id(path): f"width {path.width}, trial {i + 1}" for path, i in numbered(paths)}
    theory = "gradient flow"
    style = styles([theory, *names.values()])
    times = torch.linspace(0, 4000, _POINTS)
    flow = Line(theory, pairs(times, 0.5 * torch.exp(-times * float(pca.values[1]))))
    along = [Line(names[id(path)], thinned(path.times, path.along)) for path in paths]
    across = [Line(names[id(path)], thinned(path.times, path.across)) for path in paths]
    decay, drift = (
        line_chart(title, lines, style, x_name="time", y_name="distance", zero=True, logarithmic=False)
        for title, lines in (("Error along component 2", [flow, *along]), ("Error across it", across))
    )
    caption = "Every network starts half of component 2 away from its target; distances are root mean squares."
    note = "Principal functions of the limiting kernel, depth 5, on the digits that are learned."
    return Section(
        "Convergence along kernel principal components",
        [Panels([decay, drift], caption, styles=style, lines=True), Panels([cloud], note, styles=shown)],
    )


def limit(widths: Sequence[int], errors: Sequence[float]) -> Section:
    """The error of a finite kernel."""
    names = ["measured", "1 / sqrt(width)"]
    style = styles(names)
    x = [math.log2(width) for width in widths]
    reference = [errors[0] * math.sqrt(widths[0] / width) for width in widths]
    lines = [Line(name, list(zip(x, y, strict=True))) for name, y in zip(names, (errors, reference), strict=True)]
    drawn = line_chart("Error of the kernel", lines, style, x_name="log2 of the width", y_name="relative error",
                       logarithmic=True)  # fmt: skip
    caption = "Root mean square over 20 initializations and 8 points of the circle, relative to the limiting kernel."
    return Section("Towards the limit", [Panels([drawn], caption, styles=style, lines=True)])


def line(title: str, lines: Sequence[Line], style: dict[str, Any], x: str, y: str, scale: list[float]) -> Chart:
    """A line chart whose y axis holds ``scale`` too, so that panels share it; the first line must have a band."""
    first, *rest = lines
    held = [(first.points[0][0], min(scale), max(scale))] * 2  # of no width, so that it is not seen
    lines = [Line(first.name, first.points, [*held, *first.band]), *rest]
    return line_chart(title, lines, style, x_name=x, y_name=y, logarithmic=False)


def spread_line(name: str, x: Tensor, values: Tensor) -> Line:
    """Median of the rows of ``values``, and the band from the lowest to the highest."""
    return Line(name, pairs(x, values.median(0).values), band(x, values.amin(0), values.amax(0)))


def pairs(x: Tensor, y: Tensor) -> list[tuple[float, float]]:
    """Two vectors as points."""
    return [(round(float(a), 6), float(b)) for a, b in zip(x, y, strict=True)]


def band(x: Tensor, low: Tensor, high: Tensor) -> list[tuple[float, float, float]]:
    """Three vectors as a band."""
    return [(round(float(a), 6), float(b), float(c)) for a, b, c in zip(x, low, high, strict=True)]


def thinned(x: Tensor, y: Tensor) -> list[tuple[float, float]]:
    """At most `_POINTS` points of a line, with both ends."""
    at = torch.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().long()
    return pairs(x[at], y[at])


def numbered(paths: Sequence[Any]) -> list[tuple[Any, int]]:
    """Every path and its number among those of its width."""
    seen: dict[int, int] = {}
    found = []
    for path in paths:
        found.append((path, seen.get(path.width, 0)))
        seen[path.width] = found[-1][1] + 1
    return found
