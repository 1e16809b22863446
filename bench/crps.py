"""CRPS and its company beside the package `scores`, which is NumPy under xarray.

    crps          fair and biased CRPS of 1000 members on 64 x 128 cells, float32; and above a threshold. Peers:
                  `scores`, and the same formula by one sort of the whole array in NumPy and in torch
    error         the largest error of a cell, against the sum over sorted members in float64
    bands         10,000 members x 64 x 128 read from a file by latitude bands: seconds and memory, and the same result
    verification  all standard scores of 50 members on 64 x 128, one start and lead, beside CRPS alone

The limit of the CRPS is the sort alone, of members that already lie side by side.

    python bench/crps.py [--json] [--repeat 5] [--quick] [--only NAME]
"""

from __future__ import annotations

import argparse
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from _measure import Row, compare, cpu_seconds, interleaved, main
from scores.probability import crps_for_ensemble, tail_tw_crps_for_ensemble
from torch import Tensor

from dtheta.core.sphere.grid import Grid
from dtheta.core.sphere.transform import SphericalTransform
from dtheta.score.ensemble import CRPS, Verification, crps, standard_metrics

PARTS = ("kernels", "error", "bands", "verification")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numpy_sort(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fair CRPS by one sort along the members, as one would write it."""
    members = len(x)
    weights = 2 * np.arange(1, members + 1) - members - 1
    spread = np.tensordot(weights.astype(x.dtype), np.sort(x, axis=0), axes=1)
    return np.abs(x - y).mean(axis=0) - spread / (members * (members - 1))


def torch_sort(x: Tensor, y: Tensor) -> Tensor:
    """The same in torch."""
    members = len(x)
    weights = 2 * torch.arange(1, members + 1, dtype=x.dtype) - members - 1
    return (x - y).abs().mean(0) - torch.tensordot(weights, x.sort(0).values, dims=1) / (members * (members - 1))


def labeled(x: Tensor, y: Tensor) -> tuple[xr.DataArray, xr.DataArray]:
    return xr.DataArray(x.numpy(), dims=("member", "lat", "lon")), xr.DataArray(y.numpy(), dims=("lat", "lon"))


def kernels(members: int, repeat: int) -> Iterator[Row]:
    """CRPS of every cell."""
    x, y = drawn(members, 64, 128), drawn(64, 128, seed=1)
    pair, beside = labeled(x, y), np.ascontiguousarray(x.numpy().reshape(members, -1).T)
    shape = f"{members} x 64 x 128"
    seconds = interleaved(
        {
            "fair": lambda: crps(x, y),
            "biased": lambda: crps(x, y, fair=False),
            "tail": lambda: crps(x, y, above=1.0),
            "their fair": lambda: crps_for_ensemble(*pair, "member", method="fair", preserve_dims="all"),
            "their biased": lambda: crps_for_ensemble(*pair, "member", method="ecdf", preserve_dims="all"),
            "their tail": lambda: tail_tw_crps_for_ensemble(*pair, "member", 1.0, method="fair", preserve_dims="all"),
            "numpy": lambda: numpy_sort(x.numpy(), y.numpy()),
            "torch": lambda: torch_sort(x, y),
            "sort": lambda: np.sort(beside, axis=1),
        },
        repeat,
    )
    limit = seconds["sort"]
    fair = f"fair CRPS, {shape}"
    yield compare(f"{fair}, scores", seconds["fair"], seconds["their fair"], "CPU s", goal=2.5, limit=limit)
    yield compare(f"{fair}, one NumPy sort", seconds["fair"], seconds["numpy"], "CPU s", limit=limit)
    yield compare(f"{fair}, one torch sort", seconds["fair"], seconds["torch"], "CPU s", limit=limit)
    biased = f"biased CRPS, {shape}, scores"
    yield compare(biased, seconds["biased"], seconds["their biased"], "CPU s", goal=2.5, limit=limit)
    tail = f"fair CRPS above a threshold, {shape}, scores"
    yield compare(tail, seconds["tail"], seconds["their tail"], "CPU s", goal=2.5, limit=limit)


def error(members: int, repeat: int) -> Iterator[Row]:
    """Largest error of a cell, near zero and far from it."""
    for offset in (0.0, 280.0):
        x, y = drawn(members, 64, 128) + offset, drawn(64, 128, seed=1) + offset
        exact = numpy_sort(x.double().numpy(), y.double().numpy())
        theirs = crps_for_ensemble(*labeled(x, y), "member", method="fair", preserve_dims="all").values
        worst, their_worst = (float(np.abs(found - exact).max()) for found in (crps(x, y).numpy(), theirs))
        name = f"largest error of a cell, spread 1 about {offset:g}, float32"
        yield compare(name, worst, their_worst, "", goal=1, note="against float64")


def bands(members: int, repeat: int) -> Iterator[Row]:
    """An ensemble in a file, read by latitude bands."""
    allowed = 64 << 20
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "members.npy"
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(members, 1, 64, 128))
        for first in range(0, members, 500):
            file[first : first + 500] = drawn(min(500, members - first), 1, 64, 128, seed=first).numpy()
        file.flush()
        y = drawn(1, 64, 128, seed=1)

        def scored() -> float:
            verification = Verification([CRPS()], grid=Grid(64, 128), channels=["z"], memory=allowed)
            verification.update(0, 0, np.load(path, mmap_mode="r"), y)
            return float(verification.result().score("crps", 0).value)

        seconds = cpu_seconds(scored)
        tracemalloc.start()
        banded = scored()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        at_once = float(Grid(64, 128).mean(crps(torch.from_numpy(np.load(path)[:, 0]), y[0])))
        size = file.nbytes
    name = f"fair CRPS by bands, {members} x 64 x 128 from a file"
    yield Row(name, seconds, None, "CPU s", None, None, None, None, f"{size / 1e6:.0f} MB of members")
    memory = f"allowed: {allowed / 1e6:.0f} MB; NumPy's part, tensors are views of it"
    yield compare(f"{name}: memory", peak / 1e6, size / 1e6, "MB", goal=3 if members >= 10_000 else None, note=memory)
    difference = abs(banded - at_once) / at_once
    yield Row(f"{name}: difference", difference, 0, "", None, 0, None, difference < 1e-13, "relative, to all at once")


def verification(members: int, repeat: int) -> Iterator[Row]:
    """All scores of one start and lead."""
    grid, count = Grid(64, 128), 50
    x, y = drawn(count, 1, 64, 128), drawn(1, 64, 128, seed=1)
    references = {
        "mean": torch.zeros(1, 64, 128),
        "p95": torch.full((1, 64, 128), 1.645),
        "climate": drawn(1, 101, 64, 128, seed=2).sort(dim=1).values,
    }
    full = standard_metrics(climatology="mean", thresholds=["p95"], climate="climate", spectra=True, energy=True)
    transform = SphericalTransform(grid, 62)
    given = {"grid": grid, "channels": ["z"], "references": references, "transform": transform}
    counters = {"all": full, "some": [m for m in full if "energy" not in m.name], "crps": [CRPS()]}
    runs = {name: Verification(metrics, **given) for name, metrics in counters.items()}
    at = iter(range(10_000))
    seconds = interleaved({n: lambda v=v: v.update(next(at), 0, x, y) for n, v in runs.items()}, repeat)
    note = f"CRPS alone {seconds['crps']:.3f}, all but the energy score {seconds['some']:.3f}"
    name = f"{len(full)} scores and curves, {count} x 64 x 128"
    yield Row(name, seconds["all"], None, "CPU s", None, None, None, None, note)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    sizes = {"bands": 1000 if arguments.quick else 10_000}
    for part in (kernels, error, bands, verification):
        if arguments.only in (None, part.__name__):
            yield from part(sizes.get(part.__name__, 200 if arguments.quick else 1000), arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--quick", action="store_true", help="200 members, 1000 in the file")
    parser.add_argument("--only", choices=PARTS, help="one part only")


if __name__ == "__main__":
    main("CRPS", measure, packages=("torch", "numpy", "scores", "xarray"), options=options)
