"""The page of ``dtheta ensemble verify``: what it needs beside the scores, read from the run.

Shape legend: M members, m of them that are drawn, T leads, C channels, H latitudes, W longitudes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dtheta.cli.ensemble_judge import Judge, with_channels
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.cli.ensemble_verify import Options
    from dtheta.ensemble.hindcast import Hindcast
    from dtheta.report.ensemble_record import Plume, Snapshot
    from dtheta.score.ensemble import VerificationResult

_DRAWN = 48  # members of a plume
_MAPS = 4  # channels with maps
_LEADS = 3  # with maps


def draw(options: Options, found: Hindcast, judge: Judge, scores: VerificationResult) -> Path:
    """Write the page and return its path."""
    from dtheta.report.ensemble import ensemble_report
    from dtheta.report.ensemble_record import EnsembleRun

    settings = found.record["settings"]
    grid = found.grid
    run = EnsembleRun(
        scores,
        settings["model"] or settings["step"],
        found.record["truth"] if options.truth is None else options.truth.name,
        len(found.record["members"]),
        found.times[options.start],
        found.units,
        () if grid is None else [float(v) for v in grid.latitudes],
        () if grid is None else [float(v) for v in grid.longitudes],
        snapshots(options, found, judge),
        plumes(options, found, judge),
        _deviation(found, judge),
        _settings(options, found, scores),
    )
    assert options.report is not None
    return ensemble_report(run, options.report)


def snapshots(options: Options, found: Hindcast, judge: Judge) -> list[Snapshot]:
    """Return the first channels of one start at some leads; none where a state is neither a map nor a profile."""
    from dtheta.report.ensemble_record import Snapshot

    axes = len(found.shape) - (found.fields is not None)
    if axes not in (1, 2) or (axes == 2 and found.grid is None):
        return []
    result, archive = [], found.archive(options.start)
    for column in _columns(found.leads):
        truth = judge.truth(options.start, column)
        for c, name in enumerate(found.names[:_MAPS]):
            values = torch.from_numpy(np.asarray(archive.group[name][:, column]))
            spread = values.double().std(0) if len(values) > 1 else torch.zeros(values.shape[1:])
            hours = found.leads[column] * found.record["hours"]
            result.append(Snapshot(name, hours, values.double().mean(0), spread.double(), truth[c].double()))
    return result


def _columns(leads: Sequence[int]) -> list[int]:
    """Return places of some leads: early, in the middle and the last."""
    last = len(leads) - 1
    return sorted({max(1, round(last * share)) if last else 0 for share in (0.2, 0.5, 1.0)})[:_LEADS]


def plumes(options: Options, found: Hindcast, judge: Judge) -> list[Plume]:
    """Return the first channel of one start at some places, over all leads."""
    from dtheta.report.ensemble_record import Plume

    places = places_of(options, found)
    name, hours = found.names[0], [lead * found.record["hours"] for lead in found.leads]
    cells = [place for _, place in places]
    drawn, means, truths = [], [], []
    archive = found.archive(options.start)
    for column in range(len(found.leads)):
        values = np.asarray(archive.group[name][:, column])
        at = np.stack([values[(slice(None), *cell)] for cell in cells], 1)
        drawn.append(at[:_DRAWN])
        means.append(at.mean(0, dtype=np.float64))
        truth = judge.truth(options.start, column)[0]
        truths.append([float(truth[cell]) for cell in cells])
    members = torch.from_numpy(np.stack(drawn, 2))  # (m, places, T)
    mean, truth = torch.from_numpy(np.stack(means, 1)), torch.tensor(truths).T
    return [Plume(said, name, hours, members[:, i], mean[i], truth[i]) for i, (said, _) in enumerate(places)]


def places_of(options: Options, found: Hindcast) -> list[tuple[str, tuple[int, ...]]]:
    """Return words and indices of the places of plumes: those that were given, or three.

    Raises:
        ConfigError: for a place that there is not.
    """
    shape = found.shape[1:] if found.fields is not None else found.shape
    if found.grid is None:
        usual = [",".join(str(min(size - 1, round(i * size / 3))) for size in shape) for i in range(3)]
        return [_index(text, shape) for text in options.point or dict.fromkeys(usual)]
    grid = found.grid
    latitudes, longitudes = (np.asarray(values, dtype=float) for values in (grid.latitudes, grid.longitudes))
    middle = [(float(np.quantile(latitudes, a)), float(np.quantile(longitudes, b)))
              for a, b in ((0.75, 0.1), (0.75, 0.6), (0.25, 0.35))]  # fmt: skip
    points = [_point(text) for text in options.point] or middle
    return [_cell(latitude, longitude, latitudes, longitudes) for latitude, longitude in points]


def _index(text: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    try:
        index = tuple(int(part) for part in text.split(","))
    except ValueError:
        index = ()
    if len(index) != len(shape):
        raise ConfigError(f"--point {text!r}: states of this run have no latitudes; give {len(shape)} indices from 0")
    if any(not 0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise ConfigError(f"--point {text}: the cells of a state are {tuple(shape)}, counted from 0")
    return f"variable {text}", index


def _point(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--point {text!r} is not of the form LATITUDE,LONGITUDE, such as 52,13") from None
    if not -90 <= latitude <= 90:
        raise ConfigError(f"--point {text}: a latitude lies from -90 to 90")
    return latitude, longitude


def _cell(
    latitude: float, longitude: float, latitudes: np.ndarray, longitudes: np.ndarray
) -> tuple[str, tuple[int, ...]]:
    """Return the cell nearest to a place, in words and as indices."""
    h = int(np.abs(latitudes - latitude).argmin())
    w = int(np.abs((longitudes - longitude + 180) % 360 - 180).argmin())
    side = "N" if latitudes[h] >= 0 else "S"
    return f"{abs(latitudes[h]):.0f}°{side} {longitudes[w] % 360:.0f}°E", (h, w)


def _deviation(found: Hindcast, judge: Judge) -> dict[str, float]:
    """Return the error of the climate's mean over all starts and leads, by channel: what the ensemble should beat."""
    if judge.climate is None:
        return {}
    average, count = torch.zeros(()), len(found) * len(found.leads)
    mean = with_channels(found, judge.climate.mean).double()
    for start in range(len(found)):
        for column in range(len(found.leads)):
            average = average + (judge.truth(start, column).double() - mean).square() / count
    if found.grid is not None:
        rows = torch.tensor(found.grid.weights, dtype=torch.float64)
        values = average.mean(-1) @ (rows / rows.sum())
    else:
        values = average.flatten(1).mean(1)
    return dict(zip(found.names, values.sqrt().tolist(), strict=True))


def _settings(options: Options, found: Hindcast, scores: VerificationResult) -> dict[str, str]:
    record, settings = found.record, found.record["settings"]
    networks = len({member[0] for member in record["members"]})
    said: dict[str, Any] = {
        "network": settings["model"] or settings["step"],
        "parameter sets": str(networks),
        "perturbation": settings["perturbation"],
        "amplitude": ", ".join(f"{value:.3g}" for value in record["amplitude"]),
        "members": f"{len(record['members'])}{', in pairs' if settings['pairs'] else ''}",
        "starts": f"{len(found)}: {found.times[0]} to {found.times[-1]}",
        "step": f"{record['hours']:g} hours",
        "seed": str(settings["seed"]),
        "intervals": f"{100 * scores.level:g} %, {scores.resamples} resamples of blocks of {scores.block} starts",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "any member again": f"`dtheta ensemble replay {options.run.name} --member 0 --start {options.start}`",
    }
    return {name: text for name, text in said.items() if text}
