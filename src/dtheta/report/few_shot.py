"""The report of few-shot runs: how far each method gets with how many training examples a class."""

from __future__ import annotations

import os
from pathlib import Path

from dtheta.report.blocks import Cell, Column, KeyValues, Panels, Step, Steps, Table, number, word
from dtheta.report.charts import Chart, Line, Style, shot_chart, styles
from dtheta.report.charts.palette import NEUTRAL
from dtheta.report.few_shot_results import FewShotMethod, FewShotResults, FewShotTask, ShotScore
from dtheta.report.measure import IMAGE_ACCURACY
from dtheta.report.page import Page, Section
from dtheta.report.pictures import picture_section
from dtheta.report.quantity import count, duration, fixed, listed, percent, plural
from dtheta.score.interval import Interval

_ZERO_SHOT = "zero-shot"
_DASHED = Style(NEUTRAL.color, NEUTRAL.marker, "4 3")


def few_shot_report(results: FewShotResults, path: str | os.PathLike[str]) -> Path:
    """Write the report of few-shot runs to ``path`` as one self-contained HTML file and return the path.

    Raises:
        OutputError: If the file cannot be written; nothing half-written is left.
        NonFinite: If a score holds NaN or infinity.
    """
    return few_shot_page(results).render(path)


def few_shot_page(results: FewShotResults) -> Page:
    """The page, before it is written."""
    sections = [few_shot_section(results), *picture_section(results.pictures)]
    if results.next_steps:
        sections.append(Section("Try next", [Steps([Step(s.text, s.command) for s in results.next_steps])]))
    if results.provenance:
        sections.append(Section("Provenance", [KeyValues(list(results.provenance.items()))]))
    tasks = [task.name for task in results.tasks]
    lead = " ".join(filter(None, (results.note, *map(_verdict, results.tasks))))
    kicker = (
        f"dtheta \u00b7 few shots \u00b7 {plural(len(results.methods), 'method')} \u00b7 {plural(len(tasks), 'task')}"
    )
    return Page(f"{results.model} with few examples of {listed(tasks)}", lead, sections, kicker)


def few_shot_section(results: FewShotResults) -> Section:
    """A panel of curves per task, and the table of all numbers."""
    look = {**styles(results.methods), _ZERO_SHOT: _DASHED}
    charts = [_chart(task, look) for task in results.tasks]
    lead = "Accuracy on test images, by how many images of each class were trained on. No test image was trained on."
    panels = Panels(charts, _caption(results), styles=look, lines=True)
    return Section("Few shots", [panels, _table(results)], lead)


def _verdict(task: FewShotTask) -> str:
    """One sentence: the best score at the most shots, and how it stands to zero-shot and to the next best."""
    shots = task.shots[-1]
    found = [(method.name, point.score) for method in task.methods if (point := method.at(shots))]
    ranked = sorted(found, key=lambda pair: -pair[1].estimate)
    name, best = ranked[0]
    apart = "clearly " if best.low > task.zero_shot.high else "not clearly " if best.high > task.zero_shot.low else ""
    side = "above" if best.estimate >= task.zero_shot.estimate else "below"
    then = f"; next is {ranked[1][0]} with {percent(ranked[1][1].estimate)}" if len(ranked) > 1 else ""
    return (
        f"On {task.name}, {plural(shots, 'shot')} a class take {name} to {percent(best.estimate)}, {apart}{side} the "
        f"zero-shot {percent(task.zero_shot.estimate)}{then}."
    )


def _caption(results: FewShotResults) -> str:
    points = [point for task in results.tasks for method in task.methods for point in method.points]
    several = any(point.draws for point in points)
    over = "Student t over draws of the training images" if several else "Wilson over the test images, one draw"
    if several and not all(point.draws for point in points):
        over += "; Wilson over the test images where there was one draw"
    return (
        f"Whiskers: {100 * points[0].score.level:g} % intervals ({over}). Dashed line and band: "
        f"{IMAGE_ACCURACY.baseline_note}. Shots are images of each class, on a logarithmic axis. Axes of accuracy need "
        "not start at zero."
    )


def _chart(task: FewShotTask, look: dict[str, Style]) -> Chart:
    lines = [
        Line(
            method.name,
            [(point.shots, 100 * point.score.estimate) for point in method.points],
            [(point.shots, 100 * point.score.low, 100 * point.score.high) for point in method.points],
        )
        for method in task.methods
    ]
    zero = task.zero_shot
    reference = Line(
        _ZERO_SHOT,
        [(shots, 100 * zero.estimate) for shots in task.shots],
        [(shots, 100 * zero.low, 100 * zero.high) for shots in task.shots],
    )
    title = f"{task.name}: {plural(task.classes, 'class', 'classes')}, {count(task.test)} test images"
    return shot_chart(
        title,
        lines,
        look,
        reference=reference,
        y_name=IMAGE_ACCURACY.axis,
        bounds=(0, 100),
        x_name="shots",
    )


def _table(results: FewShotResults) -> Table:
    shots = sorted({k for task in results.tasks for k in task.shots})
    columns = [Column("Task"), Column("Method"), *(Column(plural(k, "shot"), True) for k in shots)]
    columns += [Column("Trained weights", True), Column(f"Time at {plural(shots[-1], 'shot')}", True)]
    rows = []
    for task in results.tasks:
        zero = _score(task.zero_shot)
        rows.append([word(task.name), word(_ZERO_SHOT), *[zero] * len(shots), number(0, "0"), number(0.0, "")])
        rows += [_row(task, method, shots) for method in task.methods]
    return Table("Accuracy, %, of every method at every number of shots", columns, rows)


def _row(task: FewShotTask, method: FewShotMethod, shots: list[int]) -> list[Cell]:
    found: list[ShotScore | None] = [method.at(k) for k in shots]
    last = found[-1]
    seconds = None if last is None else last.seconds
    return [
        word(task.name),
        word(method.name),
        *(number(-1.0, "") if point is None else _score(point.score) for point in found),
        number(-1, "") if method.parameters is None else number(method.parameters, count(method.parameters)),
        number(-1.0, "") if seconds is None else number(seconds, duration(seconds)),
    ]


def _score(found: Interval) -> Cell:
    estimate, low, high = (fixed(100 * value, 1) for value in (found.estimate, found.low, found.high))
    return number(found.estimate, f"{estimate} [{low}, {high}]")
