"""Maps and plumes of one start: the mean of the members, their spread, and where it went wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dtheta.report.blocks import Panels
from dtheta.report.charts import Chart
from dtheta.report.charts.field_map import field_map
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import styles
from dtheta.report.charts.plume import plume_chart
from dtheta.report.ensemble_record import EnsembleRun, Snapshot
from dtheta.report.page import Section
from dtheta.report.quantity import significant

_MEMBERS, _MEAN, _TRUTH = "members", "mean", "truth"


def maps(run: EnsembleRun) -> list[Section]:
    """The section of maps, or of profiles where a state has one axis; none without snapshots."""
    if not run.snapshots:
        return []
    flat = run.snapshots[0].mean.ndim == 1
    blocks = []
    for channel in dict.fromkeys(one.channel for one in run.snapshots):
        some = [one for one in run.snapshots if one.channel == channel]
        blocks.append(_profiles(run, channel, some) if flat else _panels(run, channel, some))
    lead = f"Start {run.start}. Where members are far apart the mean should err more, and elsewhere less."
    return [Section("One start in its place" if flat else "Maps of one start", blocks, lead)]


def _panels(run: EnsembleRun, channel: str, some: Sequence[Snapshot]) -> Panels:
    """Rows of mean, spread and error; spread and error share their shades."""
    unit = f", {run.unit(channel)}" if run.unit(channel) else ""
    means = torch.stack([one.mean for one in some])
    low, high = float(means.min()), float(means.max())
    signed = low < 0 < high
    charts: list[Chart] = []
    for one in some:
        error = one.mean - one.truth
        full = max(float(error.abs().max()), float(one.spread.max())) or 1.0
        day = f"day {significant(one.hours / 24, 3)}"
        place = (run.latitudes, run.longitudes)
        charts += [
            field_map(f"Mean, {day}", one.mean.numpy(), *place, value_name=f"{channel}{unit}", signed=signed,
                      full=max(-low, high) if signed else high, none=low),
            field_map(f"Spread, {day}", one.spread.numpy(), *place, value_name=f"spread of {channel}{unit}", full=full),
            field_map(f"Mean minus truth, {day}", error.numpy(), *place, value_name=f"error of {channel}{unit}",
                      signed=True, full=full),
        ]  # fmt: skip
    title = channel if len(run.channels) > 1 else ""
    return Panels(charts, "Spread and error of a day share their shades.", title)


def _profiles(run: EnsembleRun, channel: str, some: Sequence[Snapshot]) -> Panels:
    """Mean with the spread as a band, and the truth, along the axis of a state."""
    look = styles([_MEAN, _TRUTH])
    charts = []
    for one in some:
        places = range(len(one.mean))
        mean = [(float(k), float(one.mean[k])) for k in places]
        band = [(float(k), float(one.mean[k] - one.spread[k]), float(one.mean[k] + one.spread[k])) for k in places]
        truth = [(float(k), float(one.truth[k])) for k in places]
        title = f"Day {significant(one.hours / 24, 3)}"
        unit = run.unit(channel)
        charts.append(
            line_chart(title, [Line(_MEAN, mean, band), Line(_TRUTH, truth)], look, x_name="variable",
                       y_name=f"{channel}, {unit}" if unit else channel, logarithmic=False)
        )  # fmt: skip
    return Panels(charts, "Shades: the mean and one spread to both sides.", styles=look, lines=True)


def plumes(run: EnsembleRun) -> list[Section]:
    """The section of plumes; none without any."""
    if not run.plumes:
        return []
    look = styles([_MEAN, _TRUTH, _MEMBERS])
    charts = []
    for one in run.plumes:
        days = [hours / 24 for hours in one.hours]
        lines = [
            Line(name, list(zip(days, values.tolist(), strict=True)))
            for name, values in ((_MEAN, one.mean), (_TRUTH, one.truth))
        ]
        unit = run.unit(one.channel)
        charts.append(
            plume_chart(
                f"{one.channel}, {one.place}" if len(run.channels) > 1 else one.place.capitalize(), days,
                one.members.tolist(), lines, look, members_name=_MEMBERS, x_name="day",
                y_name=f"{one.channel}, {unit}" if unit else one.channel,
            )
        )  # fmt: skip
    drawn = len(run.plumes[0].members)
    some = f" The first {drawn} of {run.members} members are drawn." if drawn < run.members else ""
    lead = f"Start {run.start}: every member at one place.{some}"
    return [Section("Plumes", [Panels(charts, styles=look, lines=True)], lead)]
