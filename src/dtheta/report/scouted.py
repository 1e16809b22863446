"""The report of a scouting: what is predicted of each method, where it would train, and whether to believe it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dtheta.report.blocks import Column, Finding, Findings, Panels, Table, Tile, Tiles, number, word
from dtheta.report.charts import heat_map
from dtheta.report.charts.dots import Dot, dot_chart
from dtheta.report.charts.palette import NEUTRAL, styles
from dtheta.report.charts.svg import WIDTH
from dtheta.report.page import Page, Section
from dtheta.report.quantity import count, fixed, percent, significant
from dtheta.scout.scouting import Check, Prospect, Scouting

_HEAD = "head alone"
_MANY = 8  # layers above which a drawing takes the whole width


def scout_report(scouting: Scouting, model: str, data: str, path: str | os.PathLike[str]) -> Path:
    """Write the report of a scouting to ``path`` and return it.

    Raises:
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return scout_page(scouting, model, data).render(path)


def scout_page(scouting: Scouting, model: str, data: str) -> Page:
    """The page, before it is written."""
    best, seconds = scouting.best, sum(scouting.seconds.values())
    verdict = (
        f"{best.name} is predicted to do best on {data}: {percent(best.accuracy.estimate)}, where the head alone "
        f"reaches {percent(scouting.head.estimate)}."
    )
    sections = [_ranking(scouting, seconds), _layers(scouting), _belief(scouting.checks)]
    footer = f"{scouting.examples} examples, {scouting.outputs} directions of the logits, seed {scouting.seed}"
    return Page(f"Scouting {model} on {data}", verdict, sections, "dtheta scout", footer)


def _ranking(scouting: Scouting, seconds: float) -> Section:
    found = scouting.proposal
    tiles = Tiles([
        Tile("proposed", found.name, f"layers {', '.join(found.layers)}" if found.layers else ""),
        Tile("AdamW rate to try", f"{found.learning_rate:.1e}", f"for about {count(found.steps)} steps"),
        Tile("looked at", count(scouting.examples), f"examples of {scouting.classes} classes"),
        Tile("took", f"{significant(seconds, 2)} s", "of one core"),
    ])  # fmt: skip
    style = styles([row.name for row in scouting.rows])
    dots = [Dot(row.name, row.accuracy, style[row.name]) for row in scouting.rows]
    dots.append(Dot(_HEAD, scouting.head, NEUTRAL))
    chart = dot_chart("Predicted accuracy", dots, x_name="accuracy, %", percent=True, reference=_HEAD)
    lead = (
        "Every example is predicted by the others, by kernel regression with the tangent kernel of each method. The "
        "rows are in the order of the predicted loss, which tells methods apart where accuracies are too close."
    )
    return Section("Ranking", [tiles, Panels([chart], tables=[_table(scouting.rows)])], lead)


def _table(rows: Sequence[Prospect]) -> Table:
    names = ("Accuracy, %", "Gain, points", "Loss", "Weights", "Dimension", "Alignment", "Adam rate up to", "Steps")
    cells = [
        [
            word(row.name),
            number(row.accuracy.estimate, fixed(100 * row.accuracy.estimate, 1)),
            number(row.gain.estimate, f"{100 * row.gain.estimate:+.1f}"),
            number(row.loss, fixed(row.loss, 4)),
            number(row.parameters, count(row.parameters)),
            number(row.effective_dimension, fixed(row.effective_dimension, 1)),
            number(row.alignment, fixed(row.alignment, 2)),
            number(row.sign_rate, f"{row.sign_rate:.1e}"),
            number(row.sign_steps, count(row.sign_steps)),
        ]
        for row in rows
    ]
    return Table("What is predicted", [Column("Method"), *(Column(name, True) for name in names)], cells)


def _layers(scouting: Scouting) -> Section:
    layers = list(dict.fromkeys(layer for row in scouting.rows for layer in row.shares))
    cells = [[row.shares.get(layer) for layer in layers] for row in scouting.rows]
    chart = heat_map(
        "Where the loss falls", [row.name for row in scouting.rows], layers, cells, value_name="share",
        column_name="layer", full_width=2 * WIDTH if len(layers) > _MANY else WIDTH,
    )  # fmt: skip
    columns = [Column("Method"), *(Column(f"Layer {layer}, %", True) for layer in layers)]
    every = [(row.name, [row.shares.get(layer, 0.0) for layer in layers]) for row in scouting.rows]
    rows = [[word(name), *(number(v, fixed(100 * v, 1)) for v in shares)] for name, shares in every]
    table = Table("Shares as a table", columns, rows, folded=True)
    lead = "The part of the first step's fall of the loss that comes from each layer; a method's row sums to 1."
    return Section("Layers", [Panels([chart], tables=[table])], lead)


def _belief(checks: Sequence[Check]) -> Section:
    findings = [Finding(check.verdict, "holds" if check.believe else "fails", _label(check)) for check in checks]
    findings = findings or [Finding("No method was probed.", "unclear", "unchecked")]
    lead = (
        "The ranking is that of a linear model of the network. A few real steps tell how far the network leaves it: by "
        "the change of its outputs that the linear model does not explain, and by the drift of its kernel."
    )
    return Section("Whether to believe it", [Findings(findings)], lead)


def _label(check: Check) -> str:
    return "believe" if check.believe else "do not believe"
