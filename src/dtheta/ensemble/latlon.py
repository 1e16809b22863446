"""Which grid latitudes and longitudes are: one that harmonics are exact on, or just these.

Shape legend: H latitudes, W longitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dtheta.core.sphere import Grid
from dtheta.ensemble.coordinates import Coordinates

_SAME = 1e-3  # degrees; files often hold float32


@dataclass(frozen=True)
class LatLon(Coordinates):
    """Latitudes and longitudes on no grid that harmonics are exact on: a region, or rows from south to north."""

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return len(self.latitudes), len(self.longitudes)

    @property
    def nlat(self) -> int:
        """H."""
        return len(self.latitudes)

    @property
    def nlon(self) -> int:
        """W."""
        return len(self.longitudes)


def grid_of(latitudes: Any, longitudes: Any) -> Grid | LatLon:
    """Return the Gauss or equiangular grid of these latitudes (H,) and longitudes (W,) in degrees, if it is one."""
    found = tuple(np.asarray(values, dtype=float) for values in (latitudes, longitudes))
    if len(found[0]) > 1:
        for kind in ("gauss", "equiangular"):
            grid = Grid(len(found[0]), len(found[1]), kind)
            pairs = zip((grid.latitudes, grid.longitudes), found, strict=True)
            if all(np.allclose(a, b, rtol=0, atol=_SAME) for a, b in pairs):
                return grid
    return LatLon(*found)
