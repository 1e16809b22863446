"""Score a run of 'dtheta ensemble run' against what happened, with intervals over its starts, and draw a page.

The truth and the climate are those that the run has stored; --truth and --climate give others: files with the channels,
units and cells of the run. A forecast is held against the state at its start and lead: no time is interpolated, and
what is missing or has gaps is an error.

Scores: bias, RMSE, spread, spread over error, rank histogram, outliers, CRPS (fair and not), spectra of members and
mean; with a climate also the anomaly correlation, and for events above its percentiles Brier, reliability, ROC, EDI,
economic value and CRPS above the threshold.

  dtheta ensemble verify run.zarr --report page.html
  dtheta ensemble verify run.zarr --truth era5.zarr --climate years.zarr --region europe=35:60,350:40 --out scores.json
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.cli.places import require_input, require_outputs, require_outside
from dtheta.errors import ConfigError, FormatError, MembersMissing

if TYPE_CHECKING:
    from dtheta.cli.ensemble_judge import Judge
    from dtheta.cli.plan import Plan
    from dtheta.ensemble.hindcast import Hindcast
    from dtheta.score.ensemble import VerificationResult


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta ensemble verify``."""

    run: Annotated[Path, Place("the folder that 'dtheta ensemble run' wrote", "RUN")]
    truth: Annotated[Path | None, Flag("a file of what happened (default: the run's own)", "FILE")] = None
    climate: Annotated[Path | None, Flag("a file of states that tell what is usual (default: the run's)", "FILE")] = (
        None
    )
    percentile: Annotated[
        tuple[int, ...],
        Flag("an event: above this percentile of the climate, a multiple of 5; may be repeated (default: 95)"),
    ] = ()
    efi: Annotated[bool, Flag("score the extreme forecast index as a warning of the events, too")] = False
    region: Annotated[tuple[str, ...], Flag("a box in degrees; may be repeated", "NAME=SOUTH:NORTH[,WEST:EAST]")] = ()
    point: Annotated[
        tuple[str, ...], Flag("a place for the page's plumes; may be repeated (default: some)", "LAT,LON|INDEX")
    ] = ()
    start: Annotated[int, Flag("the start whose maps and plumes the page has, from 0")] = 0
    block: Annotated[int, Flag("starts that are resampled together: more than 1 where they follow each other")] = 1
    resamples: Annotated[int, Flag("of the starts, for intervals")] = 1000
    out: Annotated[Path | None, Flag("write all scores as JSON", "FILE")] = None
    report: Annotated[Path | None, Flag("write a page", "FILE")] = None


_FIRST = ("rmse", "spread", "spread_error", "crps", "acc", "outlier_ratio")  # what the console shows


def run(options: Options, console: Console) -> int:
    """Score, write and draw."""
    from dtheta.cli.ensemble_judge import judge_of, scored
    from dtheta.ensemble.hindcast import Hindcast

    _require_places(options)
    found = Hindcast(require_input(options.run))
    _require_meant(options, found)
    _require_complete(found)
    judge = judge_of(options, found)
    if options.dry_run:
        _plan(options, found, judge).show(console)
        return 0
    scores = scored(options, found, judge, console)
    record: dict[str, Any] = {"run": str(options.run), "starts": found.times, "settings": options.resolved()}
    if options.out is not None:
        scores.save(options.out)
        record["out"] = str(options.out)
    if options.report is not None:
        from dtheta.cli.ensemble_page import draw

        record["report"] = str(draw(options, found, judge, scores))
    console.result(record | scores.to_dict(), _parts(scores, record))
    return 0


def _require_places(options: Options) -> None:
    writes = {"--out": options.out, "--report": options.report}
    reads = {"RUN": options.run, "--truth": options.truth, "--climate": options.climate}
    require_outputs(writes, reads | {"--config": options.config})
    for name, path in writes.items():
        for other, place in reads.items():
            if path is not None and place is not None:
                require_outside(name, path, other, place)


def _require_meant(options: Options, found: Hindcast) -> None:
    from dtheta.cli.ensemble_page import places_of

    if not 0 <= options.start < len(found):
        raise ConfigError(f"--start is {options.start}; this run has {len(found)}, from 0 to {len(found) - 1}")
    for percentile in options.percentile:
        if percentile % 5 or not 0 < percentile < 100:
            raise ConfigError(f"--percentile is {percentile}; expected a multiple of 5, from 5 to 95")
    if options.block > len(found):
        raise ConfigError(f"--block is {options.block}, and there are {len(found)} starts")
    if options.report is None:
        refuse_idle(options, ("point", "start"), "says what the page shows: give --report FILE, too, or leave it out")
    if options.point:
        places_of(options, found)


def _require_complete(found: Hindcast) -> None:
    """Raise unless all members of all starts are there.

    Raises:
        MembersMissing: naming those that are not.
    """
    for i, time in enumerate(found.times):
        try:
            missing = found.archive(i).missing()
        except FormatError:
            raise MembersMissing(f"{found.path}: start {time} was not begun; go on with --resume") from None
        if missing:
            first = missing[0]
            raise MembersMissing(
                f"{found.path}: start {time} lacks members {first.first} to {first.stop - 1} at {len(first.leads)} "
                "leads, and perhaps more; go on with --resume"
            )


def _parts(scores: VerificationResult, record: dict[str, Any]) -> list[Part]:
    leads = sorted({s.lead for s in scores})
    shown = leads if len(leads) <= 8 else [leads[round(i * (len(leads) - 1) / 6)] for i in range(7)]
    several = len({s.channel for s in scores}) > 1
    rows = []
    for channel in dict.fromkeys(s.channel for s in scores):
        for metric in _FIRST:
            at = {s.lead: s for s in scores if (s.metric, s.channel, s.region) == (metric, channel, "global")}
            if at:
                cells = ["" if lead not in at else _cell(float(at[lead].value)) for lead in shown]
                rows.append((*([channel] if several else []), metric, *cells))
    heads = (*(["channel"] if several else []), "score", *(f"day {lead / 24:g}>" for lead in shown))
    count = max(s.starts for s in scores)
    parts: list[Part] = [Table(heads, rows, f"{count} starts, {scores.members[0]} members; spread_error: 1 is right")]
    return [*parts, *(f"wrote {record[key]}" for key in ("out", "report") if key in record)]


def _cell(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _plan(options: Options, found: Hindcast, judge: Judge) -> Plan:
    from dtheta.cli.ensemble_judge import climate_bytes
    from dtheta.cli.plan import PROGRAM, Plan, reading_time, size_within

    members = len(found.record["members"])
    state = 4 * math.prod(found.shape)
    size = state * members * len(found.leads) * len(found)
    reads = {str(path): size_within(path) for path in (options.truth, options.climate) if path is not None}
    writes: dict[str, int | None] = {str(path): None for path in (options.out, options.report) if path is not None}
    memory = PROGRAM + (128 << 20) + (4 + len(found.leads)) * state + climate_bytes(options, found, judge)
    seconds = 20 * reading_time(size) + reading_time(sum(reads.values()))
    return Plan(
        {str(options.run): size, **reads}, writes, memory, seconds, options.resolved(),
    )  # fmt: skip
