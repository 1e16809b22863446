"""The report of a comparison: how alike deltas are, as a whole and layer by layer, beside what each of them is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from dtheta.report.blocks import Cell, Column, Panels, Table, number, word
from dtheta.report.charts import Chart, heat_map
from dtheta.report.charts.svg import WIDTH
from dtheta.report.comparison import Alike, Comparison, Matrix
from dtheta.report.deltas import delta_page
from dtheta.report.page import Page, Section
from dtheta.report.quantity import count, fixed, significant
from dtheta.report.survey import DeltaSummary, Survey

_MANY = 8  # deltas, or layers, above which a drawing takes the whole width
_NO_CONFLICT = "share of the entries that both move, in which they move against each other"


def comparison_report(
    found: Comparison, deltas: Sequence[DeltaSummary], path: str | os.PathLike[str], note: str = ""
) -> Path:
    """Write the report of a comparison to ``path`` and return it; ``note`` says what was compared.

    Raises:
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return comparison_page(found, deltas, note).render(path)


def comparison_page(found: Comparison, deltas: Sequence[DeltaSummary], note: str = "") -> Page:
    """The page, before it is written: that of the deltas, with signs and layers compared as well."""
    page = delta_page(Survey(tuple(deltas), found.whole.cosines, one_base=True))
    first, similar, *rest = page.sections
    if note:
        similar = replace(similar, lead=f"{similar.lead} {note}")
    return replace(
        page, sections=[first, similar, _conflicts(found), *_by_layer(found), *rest], kicker="dtheta compare"
    )


def _conflicts(found: Comparison) -> Section:
    names, wide = list(found.names), 2 * WIDTH if len(found.names) > _MANY else WIDTH
    chart = heat_map(
        "Sign conflicts", names, names, found.whole.conflicts, value_name="share in conflict", top=1.0, full_width=wide
    )
    columns = [Column("Delta"), Column("Delta"), Column("In conflict, %", True), Column("Entries both move", True)]
    rows = [
        [word(names[i]), word(names[j]), _share(found.whole.conflicts[i][j]), _count(found.whole.both[i][j])]
        for i, j in combinations(range(len(names)), 2)
    ]
    lead = f"Sign conflicts: the {_NO_CONFLICT}. About one half where the deltas have nothing to do with each other."
    table = Table("Conflicts as a table", columns, rows, folded=True)
    return Section("Sign conflicts", [Panels([chart], tables=[table])], lead)


def _by_layer(found: Comparison) -> list[Section]:
    """The same, pair by layer; nothing where no parameter belongs to a numbered layer."""
    if len(found.layers) < 2:
        return []
    charts = [
        _layers(found, "Cosine by layer", "cosine", lambda a: a.cosines, signed=True),
        _layers(found, "Conflicts by layer", "share in conflict", lambda a: a.conflicts),
    ]
    lead = "Every pair of deltas, layer by layer, in the shades of the whole deltas."
    return [Section("Likeness by layer", [Panels(charts, tables=[_layer_table(found)])], lead)]


def _layers(found: Comparison, title: str, value: str, of: Callable[[Alike], Matrix], signed: bool = False) -> Chart:
    pairs = list(combinations(range(len(found.names)), 2))
    rows = [f"{found.names[i]}, {found.names[j]}" for i, j in pairs]
    cells = [[of(layer)[i][j] for layer in found.layers] for i, j in pairs]
    wide = 2 * WIDTH if len(found.layers) > _MANY else WIDTH
    columns = [layer.name for layer in found.layers]
    # 1 is the full shade, as for the whole deltas: a shade means one number on the page
    return heat_map(
        title, rows, columns, cells, value_name=value, column_name="layer", top=1.0, signed=signed, full_width=wide
    )


def _layer_table(found: Comparison) -> Table:
    columns = [Column("Layer"), *(Column(f"Norm of {name}", True) for name in found.names)]
    columns += [Column("Mean cosine", True), Column("Mean conflict, %", True)]
    rows = [
        [
            word(layer.name),
            *(number(norm, significant(norm, pad=True)) for norm in layer.norms),
            _mean(layer.pairs(layer.cosines), 1, 4),
            _mean(layer.pairs(layer.conflicts), 100, 1),
        ]
        for layer in found.layers
    ]
    return Table("Layers", columns, rows)


def _mean(values: Sequence[float], factor: float, decimals: int) -> Cell:
    if not values:
        return number(float("inf"), "")
    mean = sum(values) / len(values)
    return number(mean, fixed(factor * mean, decimals))


def _share(value: float | None) -> Cell:
    return number(float("inf"), "") if value is None else number(value, fixed(100 * value, 1))


def _count(value: int) -> Cell:
    return number(value, count(value))
