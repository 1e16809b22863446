"""The report of a federation: what was learned, what traveled for it, who took part, and what the channel told."""

from __future__ import annotations

import math
import os
from pathlib import Path

from dtheta.federate.history import Round
from dtheta.report.blocks import (
    Block,
    Cell,
    Column,
    Finding,
    Findings,
    KeyValues,
    Outcome,
    Panels,
    Table,
    Tile,
    Tiles,
    number,
    word,
)
from dtheta.report.charts import Chart, Style
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import styles
from dtheta.report.federated import Federated
from dtheta.report.federation_rounds import channel, privacy, took_part, traveled, unit_of
from dtheta.report.page import Page, Section
from dtheta.report.quantity import byte_size, count, duration, fixed, percent, plural, significant
from dtheta.score.interval import wilson

_MANY = 40  # parties above which their table is folded
_FEDERATED, _CENTRAL, _ALONE = "federated", "centralized", "alone, mean"


def federation_report(found: Federated, path: str | os.PathLike[str]) -> Path:
    """Write the report of a federation to ``path`` and return it.

    Raises:
        OutputError: If the page cannot be written; nothing half-written is left.
        NonFinite: If a score is NaN or infinite.
    """
    return federation_page(found).render(path)


def federation_page(found: Federated) -> Page:
    """The page, before it is written."""
    sections = [
        _learned(found),
        traveled(found),
        took_part(found),
        *channel(found),
        *privacy(found),
        *([_parties(found)] if found.parties else []),
        *([Section("Settings", [KeyValues(list(found.settings.items()))])] if found.settings else []),
    ]
    kicker = f"dtheta federate · {plural(len(found.federation.config['names']), 'client')}"
    title = f"{found.model} federated on {found.data}"
    return Page(title, _verdict(found), sections, kicker, f"delta {found.federation.delta.digest}")


def _verdict(found: Federated) -> str:
    figures, rounds = found.federation.figures, len(found.rounds)
    reached = "" if found.last is None else f" reaches {found.measure} {found.said(found.last)}"
    bits = figures["bits_up"] + figures["bits_down"]
    who = plural(len(found.federation.config["names"]), "party", "parties")
    return f"{who} train one delta in {plural(rounds, 'round')}: it{reached or ' was not measured'}, for {_sent(bits)}."


def _sent(bits: float) -> str:
    return f"{byte_size(bits / 8)} sent"


# what was learned


def _learned(found: Federated) -> Section:
    figures = found.federation.figures
    tiles = [
        Tile(found.measure, "not measured" if found.last is None else found.said(found.last), _interval(found)),
        Tile("sent to the server", byte_size(figures["bits_up"] / 8),
             _against_dense(figures["times_fewer_bits"])),
        Tile("sent to clients", byte_size(figures["bits_down"] / 8), f"{count(figures['parameters'])} entries travel"),
        Tile("took", duration(figures["seconds"]), f"{plural(figures['skipped'], 'round')} skipped"),
    ]  # fmt: skip
    if figures["qubits"]:
        tiles.append(Tile("qubits sent", significant(figures["qubits"], 3), "payloads, keys and tests"))
    blocks: list[Block] = [Tiles(tiles), *_findings(found)]
    if len(_scored(found)) > 1:  # a curve of one point shows nothing that the tiles do not
        look = styles([_FEDERATED, *_reference_names(found)])
        charts = [_by_round(found, look), _by_traffic(found, look)]
        caption = "Reference lines are trained without a federation, for as many steps as a client takes in all rounds."
        blocks.append(
            Panels(charts, caption if found.centralized or found.alone else "", styles=look, lines=True,
                   tables=[_score_table(found)])
        )  # fmt: skip
    measured = "The global delta is measured on test data that no party trains on."
    return Section("What was learned", blocks, "" if found.last is None else measured)


def _against_dense(fewer: float | None) -> str:
    if fewer is None:
        return ""
    if fewer >= 1:
        return f"{significant(fewer, 3)} times fewer bits than 32 an entry"
    return f"{significant(1 / fewer, 3)} times the bits of 32 an entry, with headers"


def _interval(found: Federated) -> str:
    if found.last is None or found.test is None or not found.shares:
        return ""
    low_high = wilson(round(found.last * found.test), found.test)
    return f"{percent(low_high.low)} to {percent(low_high.high)}, {count(found.test)} test examples"


def _reference_names(found: Federated) -> list[str]:
    return [name for name, _ in _references(found)]


def _references(found: Federated) -> list[tuple[str, float]]:
    central = None if found.centralized is None else found.centralized.scores.get(found.measure)
    pairs = [(_CENTRAL, central), (_ALONE, found.mean_alone)]
    return [(name, value) for name, value in pairs if value is not None]


def _findings(found: Federated) -> list[Findings]:
    if found.last is None or not found.shares:
        return []
    rows = [_compared(found, name, value) for name, value in _references(found)]
    return [Findings(rows)] if rows else []


def _compared(found: Federated, name: str, value: float) -> Finding:
    assert found.last is not None
    gap = 100 * (found.last - value)
    clear = _clear(found, value)
    outcome: Outcome = "holds" if gap >= 0 and (clear or name == _CENTRAL) else "unclear" if not clear else "fails"
    words = {_CENTRAL: "one party with all the data", _ALONE: "the parties by themselves, on average,"}[name]
    label = f"{gap:+.1f} points"
    sure = "" if clear else " Their intervals overlap, so the difference is not clear."
    return Finding(f"Federated {found.said(found.last)}; {words} {found.said(value)}.{sure}", outcome, label)


def _clear(found: Federated, value: float) -> bool:
    """Tell whether two shares of the same test examples differ by more than their intervals."""
    assert found.last is not None
    if found.test is None:
        return False
    a, b = (wilson(round(share * found.test), found.test) for share in (found.last, value))
    return a.low > b.high or b.low > a.high


def _scored(found: Federated) -> list[tuple[Round, float]]:
    return [(row, row.scores[found.measure]) for row in found.rounds if found.measure in row.scores]


def _by_round(found: Federated, look: dict[str, Style]) -> Chart:
    points = [(float(row.round), found.drawn(score)) for row, score in _scored(found)]
    return _scores(found, f"{found.measure.capitalize()} by round", points, look, "round")


def _by_traffic(found: Federated, look: dict[str, Style]) -> Chart:
    spent, total = dict[int, float](), 0.0
    for row in found.rounds:
        total += (row.bits_up + row.bits_down) / 8
        spent[row.round] = total
    scale, unit = unit_of(total)
    points = [(spent[row.round] / scale, found.drawn(score)) for row, score in _scored(found)]
    return _scores(found, f"{found.measure.capitalize()} by traffic", points, look, f"{unit}, up and down")


def _scores(
    found: Federated, title: str, points: list[tuple[float, float]], look: dict[str, Style], x_name: str
) -> Chart:
    ends = [points[0][0], points[-1][0]]
    lines = [Line(_FEDERATED, points)]
    lines += [Line(name, [(x, found.drawn(value)) for x in dict.fromkeys(ends)]) for name, value in _references(found)]
    bounds = (0.0, 100.0) if found.shares else (-math.inf, math.inf)
    return line_chart(title, lines, look, x_name=x_name, y_name=found.unit, logarithmic=False, bounds=bounds)


def _score_table(found: Federated) -> Table:
    columns = [Column("Round", True), Column(found.unit.capitalize(), True), Column("Length of the update", True)]
    rows = [
        [number(row.round, count(row.round)), number(score, fixed(found.drawn(score), 1 if found.shares else 4)),
         number(row.norm, significant(row.norm))]
        for row, score in _scored(found)
    ]  # fmt: skip
    return Table("Scores as a table", columns, rows, folded=True)


# the parties


def _parties(found: Federated) -> Section:
    alone = {one.name: one.scores.get(found.measure) for one in found.alone}
    columns = [Column("Party"), Column("Examples", True), *(Column(name, True) for name in found.classes)]
    columns += [Column(f"Alone, {found.unit}", True)] * bool(alone)
    rows = []
    for one in found.parties:
        cells = [word(one.name + (" (lies)" if one.lies else "")), number(one.examples, count(one.examples))]
        cells += [number(held, count(held)) for held in one.classes]
        if alone:
            cells.append(_alone(found, alone.get(one.name)))
        rows.append(cells)
    liars = sum(one.lies for one in found.parties)
    lead = "What each party holds." + (f" {plural(liars, 'party', 'parties')} lied, as simulated." if liars else "")
    caption = "Examples by class" if found.classes else "Examples"
    return Section("Parties", [Table(caption, columns, rows, folded=len(rows) > _MANY)], lead)


def _alone(found: Federated, score: float | None) -> Cell:
    if score is None:
        return number(float("inf"), "")
    return number(score, fixed(found.drawn(score), 1 if found.shares else 4))
