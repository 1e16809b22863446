"""Attacks on the page of an erasure: what is answered under each, as bars, and what comes back, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from dtheta.probe.erasure.attack import AttackResult
from dtheta.probe.erasure.result import Erasure
from dtheta.report.blocks import Block, Cell, Column, Panels, Prose, Table, number, word
from dtheta.report.charts import Chart
from dtheta.report.charts.bars import Bar, bar_chart
from dtheta.report.charts.palette import NEUTRAL, Style, styles
from dtheta.report.page import Section
from dtheta.report.quantity import count, fixed, percent
from dtheta.score.interval import Interval

_PLAIN = "no attack"
_LEAD = (
    "The same questions about the concept, asked in other ways, or after something was done to the weights. What comes "
    "back was hidden and not gone. Recovery is the part of what went that an attack brings back: 0 nothing, 1 all."
)


def attack_section(erasures: Mapping[str, Erasure]) -> list[Section]:
    """Return the section, or nothing where no attack was made."""
    attacked = {name: found for name, found in erasures.items() if found.attacks}
    if not attacked:
        return []
    style = styles(list(erasures))
    charts = [_bars(name, found, style[name]) for name, found in attacked.items()]
    caption = "Share of the questions about the concept that is answered; point at a bar for what the original does."
    notes = dict.fromkeys(f"{r.name}: {r.note}." for found in attacked.values() for r in found.attacks if r.note)
    blocks: list[Block] = [Panels(charts, caption=caption, tables=[_table(attacked)]), *map(Prose, notes)]
    return [Section("Attacks", blocks, _LEAD)]


def _bars(name: str, found: Erasure, style: Style) -> Chart:
    assert found.behavior is not None, "attacks are made where the concept was known"
    plain = found.behavior.target.accuracy
    bars = [Bar(_PLAIN, plain.after.estimate, NEUTRAL, _note(plain.before, plain.after))]
    bars += [
        Bar(result.name, result.accuracy.after.estimate, style, _note(result.accuracy.before, result.accuracy.after))
        for result in found.attacks
        if result.accuracy is not None
    ]
    return bar_chart(name, bars, x_name="answered", text=lambda value: percent(value, 0))


def _note(original: Interval, changed: Interval) -> str:
    ends = f"{percent(changed.low, 0)} to {percent(changed.high, 0)}"
    return f"95 % interval {ends}\nthe original {percent(original.estimate, 0)}"


def _table(attacked: Mapping[str, Erasure]) -> Table:
    names = ("Asked", "Original, %", "No attack, %", "Attacked, %", "Recovery", "By log-prob.", "Control", "Excess")
    rows = [[word(name), *_cells(result)] for name, found in attacked.items() for result in found.attacks]
    columns = [Column("Delta"), Column("Attack"), *(Column(name, True) for name in names)]
    return Table("Attacks as a table", columns, rows, folded=True)


def _cells(found: AttackResult) -> list[Cell]:
    control = found.control
    shares = (
        None if found.accuracy is None else found.accuracy.before,
        None if found.plain is None else found.plain.after,
        None if found.accuracy is None else found.accuracy.after,
    )
    ratios = (
        found.recovery,
        found.recovery_logprob,
        None if control is None else control.recovery,
        None if control is None else control.excess,
    )
    return [word(found.name), number(found.asked, count(found.asked)), *map(_share, shares), *map(_ratio, ratios)]


def _share(found: Interval | None) -> Cell:
    return word("–") if found is None else number(found.estimate, fixed(100 * found.estimate, 0))


def _ratio(found: Interval | None) -> Cell:
    if found is None:
        return word("–")
    return number(found.estimate, f"{fixed(found.estimate, 2)} ({fixed(found.low, 2)} to {fixed(found.high, 2)})")
