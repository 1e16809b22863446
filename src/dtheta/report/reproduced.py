"""The report of a reproduction: what each paper claims, what was measured here, and whether it holds."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from dtheta.report.blocks import (
    Block,
    Cell,
    Column,
    Finding,
    Findings,
    Outcome,
    Panels,
    Table,
    Tile,
    Tiles,
    number,
    word,
)
from dtheta.report.charts import Chart
from dtheta.report.charts.dots import Dot, dot_chart
from dtheta.report.charts.palette import NEUTRAL, Style, styles
from dtheta.report.page import Page, Section
from dtheta.report.quantity import count, duration, plural, significant
from dtheta.reproduce.claim import EXACT, OUTCOMES, Row, in_words
from dtheta.reproduce.reproduce import Reproduced, Reproduction, counted
from dtheta.score.interval import Interval

_MARKS: dict[str, Outcome] = {
    "holds": "holds", "does not hold": "fails", "not shown": "unclear", "not testable here": "unclear",
}  # fmt: skip
_EXPLAINED = (
    "A claim holds where the 95 % interval of the measured quantity lies wholly on the claimed side of the bound, it "
    "does not where it lies wholly on the other side, and is not shown where it contains the bound. The models are "
    "small: a claim is tested as an ordering or a law, never as the paper's number. Runs count as independent, also "
    "those of one task or of one draw, and intervals are not corrected for their number."
)


def reproduction_report(found: Reproduction, path: str | os.PathLike[str]) -> Path:
    """Write the report of a reproduction to ``path`` and return it.

    Raises:
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return reproduction_page(found).render(path)


def reproduction_page(found: Reproduction) -> Page:
    """The page, before it is written."""
    rows = sum(len(one.rows) for one in found.systems)
    verdict = (
        f"Of {plural(rows, 'claim')} of {plural(len(found.systems), 'paper')}, run again on small real models, "
        f"{counted(found)}."
    )
    size = "the small size (--fast)" if found.fast else "the full size"
    footer = f"{size}, {found.place}"
    return Page("Which claims hold here", verdict, [_all(found), *map(_one, found.systems)], found.command, footer)


def _all(found: Reproduction) -> Section:
    tiles = Tiles([Tile(outcome, count(found.count(outcome))) for outcome in OUTCOMES])
    columns = [Column("System"), *(Column(o.capitalize(), True) for o in OUTCOMES), Column("CPU time", True)]
    rows = [[word(one.system.title), *_counts(one), number(one.seconds, duration(one.seconds))]
            for one in found.systems]  # fmt: skip
    return Section("All systems", [tiles, Table("Claims by outcome", columns, rows)], _EXPLAINED)


def _counts(found: Reproduced) -> list[Cell]:
    return [number(found.count(outcome), count(found.count(outcome))) for outcome in OUTCOMES]


def _one(found: Reproduced) -> Section:
    """A system: the claims as sentences, their quantities drawn against the bounds, and all of it as a table."""
    said = Findings([Finding(_sentence(row), _MARKS[row.outcome], row.outcome) for row in found.rows])
    charts = _charts(found.rows)
    blocks: list[Block] = [said, Panels(charts, tables=[_table(found.rows)]) if charts else _table(found.rows)]
    return Section(found.system.title, blocks, f"{found.system.paper}. How to use it here: docs/{found.system.page}.")


def _sentence(row: Row) -> str:
    if row.found is None:
        return f"{row.claim.says} {row.note}"
    return f"{row.claim.says} Here: {_measured(row)}."


def _measured(row: Row) -> str:
    assert row.found is not None
    return f"{in_words(row.found, significant)} {row.unit}, claimed {row.side} {significant(row.bound)}"


def _charts(rows: Sequence[Row]) -> list[Chart]:
    """One chart for all quantities of one unit and one claimed bound; what has no sampling error needs no drawing."""
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        if row.found is not None and row.found.method != EXACT and math.isfinite(row.found.estimate):
            groups.setdefault((row.unit, row.bound, row.side), []).append(row)
    return [_chart(*key, group) for key, group in groups.items()]


def _chart(unit: str, bound: float, side: str, rows: Sequence[Row]) -> Chart:
    against = f"{side} {significant(bound)}"
    style = styles([row.claim.name for row in rows])
    dots = [_dot(row.claim.name, row.found, style[row.claim.name]) for row in rows if row.found is not None]
    dots.append(Dot(against, Interval(bound, bound, bound), NEUTRAL, known=False))
    return dot_chart(f"Claimed {against} {unit}".strip(), dots, x_name=unit or "value", reference=against)


def _dot(name: str, found: Interval, style: Style) -> Dot:
    """A quantity with its interval; where no bound is known, the estimate alone."""
    if math.isfinite(found.high):
        return Dot(name, found, style)
    return Dot(name, Interval(found.estimate, found.estimate, found.estimate), style, known=False)


def _table(rows: Sequence[Row]) -> Table:
    columns = [Column("Claim"), Column("In the paper"), Column("Here"), Column("Measured", True), Column("Unit"),
               Column("Claimed"), Column("Outcome"), Column("Note")]  # fmt: skip
    cells = [
        [
            word(row.claim.name), word(row.claim.paper), word(row.here or "nothing was run"), _quantity(row),
            word(row.unit), word(f"{row.side} {significant(row.bound)}" if row.found else ""), word(row.outcome),
            word(row.note),
        ]
        for row in rows
    ]  # fmt: skip
    return Table("What was claimed, run and found", columns, cells)


def _quantity(row: Row) -> Cell:
    return Cell("", -math.inf) if row.found is None else Cell(in_words(row.found, significant), row.found.estimate)
