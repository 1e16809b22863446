"""Packed: what is left of the scores when deltas are compressed, and when all tasks share one composed encoder."""

from __future__ import annotations

from dtheta.report.blocks import Cell, Column, KeyValues, Table, number, word
from dtheta.report.measure import Measure
from dtheta.report.page import Section
from dtheta.report.quantity import byte_size, fixed
from dtheta.report.results import AdaptResults, PackedTask
from dtheta.score.interval import Interval


def packed_section(results: AdaptResults) -> list[Section]:
    """A table of the tasks, and how it was made; nothing where nothing was compressed."""
    packed = results.packed
    if packed is None or not packed.tasks:
        return []
    measure = results.measure
    names = (f"{measure.baseline.capitalize()}", "Own delta", "Compressed", "Times smaller", "File", "Composed")
    columns = [Column("Task"), Column("Method"), *(Column(name, True) for name in names)]
    rows = [_row(results, row) for row in packed.tasks]
    method = packed.tasks[0].method
    lead = (
        f"{measure.name.capitalize()}, {measure.unit}, with intervals: of each task's {method} delta, of that delta as "
        "signs and a scale, and of one encoder composed of all of these by learned coefficients, each task with the "
        f"head of its own delta. Composed is one file of {byte_size(packed.file_bytes)} for all tasks, without heads."
    )
    table = Table(f"The same {measure.examples} throughout", columns, rows)
    return [Section("Smaller, and one for all", [table, KeyValues(list(packed.settings.items()))], lead)]


def _row(results: AdaptResults, row: PackedTask) -> list[Cell]:
    (task,) = (task for task in results.tasks if task.name == row.task)
    measure = results.measure
    return [
        word(row.task),
        word(row.method),
        _score(measure, task.baseline),
        _score(measure, results.method(row.task, row.method).score),
        _score(measure, row.compressed),
        number(row.ratio, fixed(row.ratio, 1)),
        number(row.file_bytes, byte_size(row.file_bytes)),
        _score(measure, row.composed),
    ]


def _score(measure: Measure, found: Interval) -> Cell:
    low, high = measure.number(found.low), measure.number(found.high)
    return number(found.estimate, f"{measure.number(found.estimate)} [{low}, {high}]")
