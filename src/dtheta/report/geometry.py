"""Geometry: where in the model training moved the weights, by singular values and singular directions."""

from __future__ import annotations

from collections.abc import Sequence

from dtheta.report.blocks import Block, Column, Panels, Table, number, word
from dtheta.report.charts import Chart, Point, Style, heat_map, line_chart, scatter_chart
from dtheta.report.curves import seed_line
from dtheta.report.layers import layer_grid, short_names
from dtheta.report.page import Section
from dtheta.report.quantity import significant
from dtheta.report.results import AdaptResults, TaskResult

_SHIFT, _DIRECTION, _SUBSPACE = "shift of singular values", "change of direction", "turn of the leading subspace"

_STRETCHED = (
    "One point per weight matrix. Across: mean |s' \u2212 s| of the singular values, in units of the weights. "
    "Up: 1 \u2212 mean |cos| between old and new singular vectors, index by index; values that swap places count as a "
    "full turn, so near-equal singular values push a point up."
)
_TURNED = (
    "1 \u2212 mean cosine of the principal angles between old and new leading singular subspaces, which no swap of "
    "indices can change; mean over tasks. All maps share one scale."
)


def geometry_section(results: AdaptResults, look: dict[str, Style]) -> list[Section]:
    """A section when any method has per-layer changes or orthogonality curves, else none."""
    blocks: list[Block] = []
    measured = [task for task in results.tasks if any(method.layers for method in task.methods)]
    if measured:
        seen = _seen(measured, look)
        dots = {task.name: _points(task) for task in measured}
        every = [point for points in dots.values() for point in points]
        blocks += [
            Panels(
                [
                    scatter_chart(name, points, look, x_name=_SHIFT, y_name=_DIRECTION, scale_to=every)
                    for name, points in dots.items()
                ],
                _STRETCHED,
                "Stretched or turned",
                seen,
            ),
            Panels(
                _maps(measured, list(seen)),
                _TURNED,
                "Turned, layer by layer",
                tables=[_table(measured)],
            ),
        ]
    blocks += _orthogonality(results, look)
    lead = "How far each weight matrix moved, and whether it was stretched (singular values) or turned (directions)."
    return [Section("Where the weights moved", blocks, lead)] if blocks else []


def _seen(tasks: Sequence[TaskResult], look: dict[str, Style]) -> dict[str, Style]:
    named = {method.name for task in tasks for method in task.methods if method.layers}
    return {name: style for name, style in look.items() if name in named}


def _points(task: TaskResult) -> list[Point]:
    short = short_names(list(dict.fromkeys(layer.name for method in task.methods for layer in method.layers)))
    return [
        Point(
            method.name, short[layer.name], layer.shift, layer.direction, f"{_SUBSPACE} {significant(layer.subspace)}"
        )
        for method in task.methods
        for layer in method.layers
    ]


def _maps(tasks: Sequence[TaskResult], methods: Sequence[str]) -> list[Chart]:
    means = {name: _mean_subspace(tasks, name) for name in methods}
    top = max(value for values in means.values() for value in values.values())
    charts = []
    for name, values in means.items():
        grid = layer_grid(values)
        block = "block" if len(grid.columns) > 1 else ""
        charts.append(
            heat_map(
                name,
                grid.rows,
                grid.columns,
                grid.cells,
                value_name=_SUBSPACE,
                column_name=block,
                top=top,
                full_width=grid.drawing_width,
            )
        )
    return charts


def _mean_subspace(tasks: Sequence[TaskResult], name: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for task in tasks:
        for method in task.methods:
            for layer in method.layers if method.name == name else ():
                found.setdefault(layer.name, []).append(layer.subspace)
    return {layer: sum(values) / len(values) for layer, values in found.items()}


def _table(tasks: Sequence[TaskResult]) -> Table:
    columns = [Column("Task"), Column("Method"), Column("Weight")]
    columns += [Column(name.capitalize(), True) for name in (_SHIFT, _DIRECTION, _SUBSPACE)]
    rows = [
        [
            word(t.name),
            word(m.name),
            word(w.name),
            *(number(v, significant(v, pad=True)) for v in (w.shift, w.direction, w.subspace)),
        ]
        for t in tasks
        for m in t.methods
        for w in m.layers
    ]
    return Table("Every weight matrix as a table", columns, rows, folded=True)


def _orthogonality(results: AdaptResults, look: dict[str, Style]) -> list[Block]:
    tasks = [task for task in results.tasks if any(method.orthogonality for method in task.methods)]
    if not tasks:
        return []
    shown = [{m.name: m.orthogonality for m in task.methods if m.orthogonality} for task in tasks]
    names = {name for curves in shown for name in curves}
    charts = [
        line_chart(
            task.name,
            [seed_line(name, found) for name, found in curves.items()],
            look,
            x_name="step",
            y_name="distance from orthonormal",
            zero=True,
        )
        for task, curves in zip(tasks, shown, strict=True)
    ]
    caption = (
        "Mean Frobenius norm of A A\u1d40 \u2212 I and B\u1d40 B \u2212 I over the trained factors; 0 is orthonormal."
    )
    seen = {name: style for name, style in look.items() if name in names}
    return [Panels(charts, caption, "Factors kept orthonormal", seen, lines=True)]
