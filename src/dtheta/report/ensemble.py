"""The report of an ensemble: is its spread right, how far does it see, and what do its members look like."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from dtheta.report.blocks import (
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
from dtheta.report.ensemble_fields import maps, plumes
from dtheta.report.ensemble_probability import events, ranks, spectra
from dtheta.report.ensemble_record import EnsembleRun
from dtheta.report.page import Page, Section
from dtheta.report.quantity import THIN, fixed, plural, significant
from dtheta.score.ensemble import Score

_CALIBRATED = (0.9, 1.1)  # of spread over error: the goal for a useful ensemble
_SETTLED = 48.0  # hours from which on it is asked of, where the run is as long


def ensemble_report(run: EnsembleRun, path: str | os.PathLike[str]) -> Path:
    """Write the report of an ensemble to ``path`` and return it.

    Raises:
        OutputError: If the page cannot be written; nothing half-written is left.
    """
    return ensemble_page(run).render(path)


def ensemble_page(run: EnsembleRun) -> Page:
    """The page, before it is written."""
    sections = [
        _summary(run), *(_skill(run, channel) for channel in run.channels), *maps(run), *plumes(run), *spectra(run),
        *ranks(run), *events(run), _table(run),
        *([Section("Settings", [KeyValues(list(run.settings.items()))])] if run.settings else []),
    ]  # fmt: skip
    kicker = f"dtheta ensemble · {plural(run.members, 'member')}, {plural(run.starts, 'start')}"
    truth = f" against {run.truth}" if run.truth else ""
    return Page(f"{run.name}{truth}", _verdict(run), sections, kicker)


def _verdict(run: EnsembleRun) -> str:
    channel = run.channels[0]
    until = useful_days(run, channel)
    last = run.series("rmse", channel)[-1].lead / 24
    reach = ""
    if until is not None:
        days = f"all {significant(last, 3)} days" if until >= last else f"{significant(until, 3)} days"
        reach = f" beats the climate for {days}," if until > 0 else " does not beat the climate at any lead,"
    ratios = _settled(run, channel)
    spread = ""
    if ratios:
        low, high = min(ratios), max(ratios)
        spread = f" its spread is {fixed(low, 2)} to {fixed(high, 2)} of its error"
        spread += f" from day {significant(_SETTLED / 24, 2)} on" if _late(run, channel) else ""
    said = f"The mean of {run.members} members{reach}{' and' if reach and spread else ''}{spread}".rstrip(",")
    return f"{said}, in {channel}."


def useful_days(run: EnsembleRun, channel: str) -> float | None:
    """Return the last lead in days up to which the mean errs less than the climate's mean; None if not known."""
    if channel not in run.deviation:
        return None
    days = 0.0
    for score in run.series("rmse", channel):
        if not float(score.value) < run.deviation[channel]:  # NaN beats nothing
            return days
        days = score.lead / 24
    return days


def _late(run: EnsembleRun, channel: str) -> bool:
    return any(s.lead >= _SETTLED for s in run.series("spread_error", channel))


def _settled(run: EnsembleRun, channel: str) -> list[float]:
    """Return spread over error after the first days, or of all leads of a shorter run, where it exists."""
    found = run.series("spread_error", channel)
    late = [s for s in found if s.lead >= _SETTLED] or found
    return [float(s.value) for s in late if math.isfinite(float(s.value))]


# the figures to see first


def _summary(run: EnsembleRun) -> Section:
    channel = run.channels[0]
    tiles = []
    until = useful_days(run, channel)
    if until is not None:
        tiles.append(Tile("mean beats the climate", f"{significant(until, 3)}{THIN}days", f"RMSE of {channel}"))
    ratios = _settled(run, channel)
    if ratios:
        since = f"from day {_SETTLED / 24:g} on" if _late(run, channel) else "all leads"
        tiles.append(Tile("spread over error", fixed(sum(ratios) / len(ratios), 2), f"mean of {since}; 1 is right"))
    for name, said, note in (
        ("crps", "fair CRPS", "last lead"),
        ("outlier_ratio", "truth outside all members", "times as often as it should be, last lead"),
    ):
        found = run.series(name, channel)
        if found:
            unit = run.unit(channel) if name == "crps" else ""
            tiles.append(Tile(said, _with_unit(float(found[-1].value), unit), note))
    findings = [one for c in run.channels for one in _findings(run, c)]
    lead = "Scores are means over the area and all starts; intervals are a bootstrap over starts."
    if run.starts < 8:
        lead += f" With {plural(run.starts, 'start')} they are wide, and not to be trusted: take more starts."
    return Section("Summary", [Tiles(tiles), *([Findings(findings)] if findings else [])], lead)


def _with_unit(value: float, unit: str) -> str:
    return significant(value, 3) + (f"{THIN}{unit}" if unit else "")


def _findings(run: EnsembleRun, channel: str) -> list[Finding]:
    found = [s for s in run.series("spread_error", channel) if math.isfinite(float(s.value))]
    late = [s for s in found if s.lead >= _SETTLED] or found
    if not late:
        return []
    values = [float(s.value) for s in late]
    low, high = min(values), max(values)
    inside = sum(_CALIBRATED[0] <= value <= _CALIBRATED[1] for value in values)
    outcome: Outcome = "holds" if inside == len(values) else "partly" if inside else "fails"
    since = "from day 2 on" if late is not found and late[0].lead > found[0].lead else "at all leads"
    text = (
        f"{channel}: spread over error is between {_CALIBRATED[0]} and {_CALIBRATED[1]} {since}; it is "
        f"{fixed(low, 2)} to {fixed(high, 2)}{_leaning(values)}."
    )
    return [Finding(text, outcome, f"{inside} of {plural(len(values), 'lead')}")]


def _leaning(values: Sequence[float]) -> str:
    if all(value < 1 for value in values):
        return ", so members are too alike"
    return ", so members are too far apart" if all(value > 1 for value in values) else ""


# error, spread, CRPS by lead


def _skill(run: EnsembleRun, channel: str) -> Section:
    look, lines = _error_and_spread(run, channel)
    charts = [_by_lead("Error and spread", lines, look, _with_name("root mean square", run, channel), zero=True)]
    single = styles(["", " ", "  ", "   ", "score"])["score"]
    for metric, title, y_name, zero in _OTHERS:
        line = _line(metric, run.series(metric, channel))
        if line.points:
            name = y_name if metric in _PURE else _with_name(y_name, run, channel)
            charts.append(_by_lead(title, [line], {metric: single}, name, zero=zero))
    caption = (
        "Spread is that of members times the square root of (M + 1) / M; where it equals the error of the mean, the "
        f"truth could be one more member. Shades are {100 * run.scores.level:g} % intervals over starts."
    )
    title = f"Skill, {channel}" if len(run.channels) > 1 else "Skill"
    return Section(title, [Panels(charts, caption, styles=look, lines=True)])


_OTHERS = (
    ("crps", "CRPS of the ensemble", "fair CRPS", True), ("spread_error", "Spread over error", "ratio", False),
    ("acc", "Anomaly correlation of the mean", "correlation", False), ("bias", "Bias of the mean", "bias", False),
)  # fmt: skip
_PURE = ("spread_error", "acc")  # without a unit


def _with_name(text: str, run: EnsembleRun, channel: str) -> str:
    return f"{text}, {run.unit(channel)}" if run.unit(channel) else text


def _error_and_spread(run: EnsembleRun, channel: str) -> tuple[dict[str, Style], list[Line]]:
    """Return the lines of the mean's error, the spread, and the error of the climate's mean, and how they look."""
    lines = [_line("error of the mean", run.series("rmse", channel)), _line("spread", run.series("spread", channel))]
    lines = [line for line in lines if line.points]
    if channel in run.deviation and lines:
        ends = [lines[0].points[0][0], lines[0].points[-1][0]]
        lines.append(Line("climate", [(x, run.deviation[channel]) for x in dict.fromkeys(ends)]))
    every = styles(["error of the mean", "spread", " ", "climate"])
    return {line.name: every[line.name] for line in lines}, lines


def _by_lead(title: str, lines: Sequence[Line], look: dict[str, Style], y_name: str, zero: bool) -> Chart:
    return line_chart(title, lines, look, x_name="day", y_name=y_name, zero=zero, logarithmic=False)


def _line(name: str, scores: Sequence[Score]) -> Line:
    """Return a series by day, with its intervals where all have one."""
    finite = [s for s in scores if math.isfinite(float(s.value))]
    band = [(s.lead / 24, float(s.low), float(s.high)) for s in finite if math.isfinite(float(s.low) + float(s.high))]
    points = [(s.lead / 24, float(s.value)) for s in finite]
    return Line(name, points, band if len(band) == len(points) else [])


# all scores


def _table(run: EnsembleRun) -> Section:
    """Return all scores that are numbers, at some leads."""
    leads = sorted({s.lead for s in run.scores})
    shown = leads if len(leads) <= 11 else [leads[round(i * (len(leads) - 1) / 10)] for i in range(11)]
    tables = []
    for channel in run.channels:
        for region in run.regions:
            rows = [row for metric in run.metrics if (row := _row(run, metric, channel, region, shown))]
            columns = [Column("Score"), *(Column(f"day {significant(lead / 24, 3)}", True) for lead in shown)]
            name = ", ".join([channel, *([region] if len(run.regions) > 1 else [])])
            tables.append(Table(name, columns, rows, folded=len(run.regions) * len(run.channels) > 1 and bool(tables)))
    lead = "What each score is and where it comes from: docs/verification.md. A dash: it does not exist there."
    return Section("All scores", tables, lead)


def _row(run: EnsembleRun, metric: str, channel: str, region: str, leads: Sequence[float]) -> list[Cell]:
    """Return the cells of one score; none where it is a curve, or not there."""
    found = {s.lead: s for s in run.series(metric, channel, region) if not s.value.ndim}
    if not found:
        return []
    at = [found.get(lead) for lead in leads]
    cells = [number(math.inf, "") if s is None else number(_order(s), significant(float(s.value), 3)) for s in at]
    return [word(_named(metric, next(iter(found.values())))), *cells]


def _named(metric: str, score: Score) -> str:
    unit = score.unit if score.unit not in ("", "1") else ""
    return metric.replace("_", " ") + (f", {unit}" if unit else "")


def _order(score: Score) -> float:
    value = float(score.value)
    return value if math.isfinite(value) else math.inf
