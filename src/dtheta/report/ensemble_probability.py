"""Spectra, ranks and events: whether members look like the truth, and whether probabilities come true."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dtheta.report.blocks import Panels
from dtheta.report.charts import Chart, Style
from dtheta.report.charts.columns import Pillar, column_chart
from dtheta.report.charts.line import Line, line_chart
from dtheta.report.charts.palette import styles
from dtheta.report.charts.reliability import Class, reliability_chart
from dtheta.report.ensemble_record import EnsembleRun
from dtheta.report.page import Section
from dtheta.report.quantity import significant
from dtheta.score.ensemble import Score

_SHOWN = 3  # leads that are drawn one beside the other
_FLOOR = 1e-3  # of a spectrum's ratio: below it there is nothing to see


def some_of(scores: Sequence[Score], count: int = _SHOWN) -> list[Score]:
    """Return some scores, evenly spaced over the leads, without lead 0 where there are others, the last among them."""
    later = [s for s in scores if s.lead > 0] or list(scores)
    wanted = min(count, len(later))
    return [later[round((i + 1) * len(later) / wanted) - 1] for i in range(wanted)]


def _day(score: Score) -> str:
    return f"day {significant(score.lead / 24, 3)}"


def spectra(run: EnsembleRun) -> list[Section]:
    """The section of spectra; none where there are none."""
    scale = "degree" if run.latitudes else "wave number"
    blocks = []
    for channel in run.channels:
        look: dict[str, Style] = {}
        charts = []
        for of, title in (("members", "Members over truth"), ("mean", "Ensemble mean over truth")):
            lines = [_spectrum(score) for score in some_of(run.series(f"spectrum_{of}", channel), 4)]
            lines = [line for line in lines if line.points]
            if lines:
                look = styles([line.name for line in lines])
                deep = min(ratio for line in lines for _, ratio in line.points) < 0.1
                charts.append(line_chart(title, lines, look, x_name=scale, y_name="power, ratio", logarithmic=deep))
        if charts:
            blocks.append(Panels(charts, "", channel if len(run.channels) > 1 else "", styles=look, lines=True))
    if not blocks:
        return []
    lead = (
        f"Power by {scale}, large scales to the left. Members should stay at 1 at all leads, as rough as the truth; "
        "their mean falls from small scales on, as members part."
    )
    return [Section("Spectra", blocks, lead)]


def _spectrum(score: Score) -> Line:
    pairs = [(float(degree), float(ratio)) for degree, ratio in enumerate(score.value) if degree]
    return Line(_day(score), [(d, r) for d, r in pairs if math.isfinite(r) and r > _FLOOR])


def ranks(run: EnsembleRun) -> list[Section]:
    """The section of rank histograms; none where there are none."""
    blocks = []
    for channel in run.channels:
        some = some_of(run.series("rank_histogram", channel))
        some = [s for s in some if bool(s.value.isfinite().all())]
        if not some:
            continue
        top = max(_top(s) for s in some)
        style = styles(["frequency"])["frequency"]
        charts = [
            column_chart(
                _day(s).capitalize(), _pillars(s), x_name="rank of the truth among the members", y_name="share",
                expected=1 / len(s.value), ends=("below all", "above all"), top=top, style=style,
            )
            for s in some
        ]  # fmt: skip
        blocks.append(Panels(charts, "", channel if len(run.channels) > 1 else ""))
    if not blocks:
        return []
    lead = (
        "How often the truth has each rank among the members. Flat along the dashed line is right; high ends mean that "
        "members are too alike, a hill that they are too far apart, a slope that they are biased."
    )
    return [Section("Rank histograms", blocks, lead)]


def _pillars(score: Score) -> list[Pillar]:
    bounds = bool(score.low.isfinite().all())
    return [
        Pillar(
            f"bin {i + 1} of {len(score.value)}", float(score.value[i]),
            float(score.low[i]) if bounds else None, float(score.high[i]) if bounds else None,
        )
        for i in range(len(score.value))
    ]  # fmt: skip


def _top(score: Score) -> float:
    high = score.high if bool(score.high.isfinite().all()) else score.value
    return float(high.max())


def events(run: EnsembleRun) -> list[Section]:
    """The section of each event: reliability, skill and discrimination; none where there are no events."""
    found = []
    for name in dict.fromkeys(m.removeprefix("reliability_") for m in run.metrics if m.startswith("reliability_")):
        blocks = [block for channel in run.channels for block in _event(run, channel, name)]
        if blocks:
            lead = (
                "Left to right by lead: where an event was given a probability, how often it happened; the diagonal is "
                "perfect, the dashed line how often it happened at all, and large points are frequent forecasts."
            )
            found.append(Section(f"Event: {_said(name)}", blocks, lead))
    return found


def _said(name: str) -> str:
    side, _, threshold = name.partition("_")
    if threshold.startswith("p") and threshold[1:].isdigit():
        return f"{side} the {threshold[1:]}th percentile of the climate"
    return f"{side} {threshold}"


def _event(run: EnsembleRun, channel: str, name: str) -> list[Panels]:
    style = styles(["reliability"])["reliability"]
    charts = []
    for score in some_of(run.series(f"reliability_{name}", channel)):
        filled = [i for i, row in enumerate(score.value) if bool(row.isfinite().all()) and float(row[2]) > 0]
        if not filled:
            continue
        classes = [_class(score, i) for i in filled]
        rate = sum(one.frequency * one.share for one in classes)
        charts.append(reliability_chart(_day(score).capitalize(), classes, style, base_rate=rate))
    if not charts:
        return []
    panels = [chart for metric, title in _OF_EVENT if (chart := _by_lead(run, metric.format(name), title, channel))]
    blocks = [Panels(charts, "", channel if len(run.channels) > 1 else "")]
    return [*blocks, *([Panels(panels)] if panels else [])]


_OF_EVENT = (
    ("auc_{}", "Area under the ROC curve"), ("brier_skill_{}", "Brier skill"), ("crps_{}", "CRPS above the threshold"),
)  # fmt: skip


def _by_lead(run: EnsembleRun, metric: str, title: str, channel: str) -> Chart | None:
    scores = [s for s in run.series(metric, channel) if math.isfinite(float(s.value))]
    if not scores:
        return None
    band = [(s.lead / 24, float(s.low), float(s.high)) for s in scores]
    line = Line(
        title, [(s.lead / 24, float(s.value)) for s in scores],
        band if all(math.isfinite(low + high) for _, low, high in band) else [],
    )  # fmt: skip
    unit = scores[0].unit if scores[0].unit not in ("", "1") else ""
    look = {title: styles(["", " ", "  ", "   ", title])[title]}
    return line_chart(title, [line], look, x_name="day", y_name=unit or "score", logarithmic=False)


def _class(score: Score, row: int) -> Class:
    low, high = float(score.low[row, 1]), float(score.high[row, 1])
    probability, frequency, share = (float(v) for v in score.value[row])
    if not math.isfinite(low + high):
        return Class(probability, frequency, share)
    return Class(probability, frequency, share, low, high)
