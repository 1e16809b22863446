"""Scores: every method's score with its interval, against the baseline."""

from __future__ import annotations

from dtheta.report.blocks import Cell, Column, Panels, Table, number, word
from dtheta.report.charts import Chart, Dot, Style, dot_chart
from dtheta.report.charts.palette import NEUTRAL
from dtheta.report.measure import Measure
from dtheta.report.page import Section
from dtheta.report.quantity import count, fixed, plural
from dtheta.report.results import AdaptResults, MethodResult, TaskResult
from dtheta.report.verdict import final_loss, gain_of
from dtheta.score.interval import Interval

_INTERVALS = {
    "wilson": "Wilson score interval over the {examples}",
    "t": "Student t interval over seeds",
    "bootstrap-bca": "BCa bootstrap over the {examples}",
    "bootstrap-percentile": "percentile bootstrap over the {examples}",
}


def score_section(results: AdaptResults, look: dict[str, Style]) -> Section:
    """A panel of dots per task, and the table of all numbers."""
    measure = results.measure
    charts = [_chart(task, measure, look) for task in results.tasks]
    lead = f"{measure.name.capitalize()} of the adapted model on {measure.examples}, against {measure.baseline_note}."
    if measure.better == "lower":
        lead += " Lower is better."
    return Section(measure.name.capitalize(), [Panels(charts, _caption(results)), _table(results)], lead)


def _caption(results: AdaptResults) -> str:
    measure = results.measure
    kinds = dict.fromkeys(i.method for t in results.tasks for i in (t.baseline, *(m.score for m in t.methods)))
    named = "; ".join(_INTERVALS.get(kind, kind).format(examples=measure.examples) for kind in kinds if kind)
    level = results.tasks[0].baseline.level
    paired = any(method.gain is not None for method in results.runs)
    many = max(len(task.methods) for task in results.tasks) > 1
    notes = [
        f"Whiskers: {100 * level:g} % intervals{f' ({named})' if named else ''}.",
        "Small dots: single seeds." if any(method.scores for method in results.runs) else "",
        f"Dashed line and band: {measure.baseline_note}. Axes do not start at zero.",
        "Gains in the table are paired, so they can be clear where whiskers overlap." if paired else "",
        f"The best of several methods, picked on the same {measure.examples}, looks a little better than it is." * many,
    ]
    return " ".join(filter(None, notes))


def _chart(task: TaskResult, measure: Measure, look: dict[str, Style]) -> Chart:
    rows = [Dot(measure.baseline, task.baseline, NEUTRAL)]
    rows += [Dot(found.name, found.score, NEUTRAL) for found in task.references]
    rows += [Dot(method.name, method.score, look[method.name], method.scores) for method in task.methods]
    classes = f"{plural(task.classes, 'class', 'classes')}, " if task.classes else ""
    title = f"{task.name}: {classes}{count(task.test)} {measure.examples}"
    return dot_chart(title, rows, x_name=measure.axis, percent=measure.percent, reference=measure.baseline)


def _table(results: AdaptResults) -> Table:
    measure = results.measure
    names = (
        measure.axis.capitalize(),
        "Interval",
        f"Gain, {measure.gain_unit}",
        "Gain interval",
        "Final training loss",
    )
    columns = [Column("Task"), Column("Method"), *(Column(name, True) for name in names)]
    rows = []
    for task in results.tasks:
        for name, score in ((measure.baseline, task.baseline), *((r.name, r.score) for r in task.references)):
            empty = (number(0.0, ""), number(0.0, ""), number(float("inf"), ""))
            rows.append([word(task.name), word(name), *_cells(measure, score), *empty])
        rows += [_row(results, task, method) for method in task.methods]
    return Table(f"{measure.name.capitalize()} of every method on every task", columns, rows)


def _row(results: AdaptResults, task: TaskResult, method: MethodResult) -> list[Cell]:
    measure = results.measure
    more = gain_of(results, task, method).interval
    loss = sum(map(final_loss, method.losses)) / len(method.losses)
    return [
        word(task.name),
        word(method.name),
        *_cells(measure, method.score),
        number(more.estimate, measure.gain(more.estimate)),
        number(more.low, f"{measure.gain(more.low)} to {measure.gain(more.high)}"),
        number(loss, fixed(loss, 3)),
    ]


def _cells(measure: Measure, score: Interval) -> list[Cell]:
    low_high = _range(measure, score.low, score.high)
    return [number(score.estimate, measure.number(score.estimate)), number(score.low, low_high)]


def _range(measure: Measure, low: float, high: float) -> str:
    return f"{measure.number(low)} to {measure.number(high)}"
