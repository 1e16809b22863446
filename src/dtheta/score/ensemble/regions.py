"""Where scores are averaged: cells with their areas, and regions of them.

A cell counts in a region by weight = area x (1 inside, 0 outside), or by any weights >= 0 that are given. The first
region is always ``"global"``, all cells.

Shape legend: R regions, H latitudes, W longitudes, ``cells`` (H, W) or any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

GLOBAL = "global"


class GridLike(Protocol):
    """Latitudes and longitudes in degrees, and weights of the rows, such as `dtheta.core.sphere.Grid`."""

    @property
    def latitudes(self) -> Any:
        """(H,)."""
        ...

    @property
    def longitudes(self) -> Any:
        """(W,)."""
        ...

    @property
    def weights(self) -> Any:
        """(H,) areas of the rows' cells; only their ratios count."""
        ...


@dataclass(frozen=True)
class Box:
    """Cells between two latitudes and, from west eastward, two longitudes, bounds included; degrees.

    ``Box(20, 90)`` is the north; ``Box(35, 60, 350, 40)`` runs over the meridian of Greenwich.
    """

    south: float = -90.0
    north: float = 90.0
    west: float = 0.0
    east: float = 360.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a box without room."""
        if not -90 <= self.south <= self.north <= 90:
            raise ConfigError(f"box: expected -90 <= south <= north <= 90, found {self.south} and {self.north}")

    def mask(self, grid: GridLike) -> Tensor:
        """Return which cells (H, W) lie inside."""
        latitudes, longitudes = (torch.tensor(v, dtype=torch.float64) for v in (grid.latitudes, grid.longitudes))
        rows = (latitudes >= self.south) & (latitudes <= self.north)
        width = self.east - self.west
        columns = (longitudes - self.west) % 360 <= (360 if abs(width) >= 360 else width % 360)
        return rows[:, None] & columns


@dataclass(frozen=True)
class Cells:
    """The cells of a field and the weights of each region.

    Attributes:
        shape: (H, W), or any other.
        regions: Names, "global" first.
        weights: (R, *shape), float64.
        grid: Where the cells lie on the sphere, if they do.
    """

    shape: tuple[int, ...]
    regions: tuple[str, ...]
    weights: Tensor
    grid: GridLike | None = None

    def place(self, index: tuple[int, ...]) -> str:
        """Return words for a cell: "cell (3, 7) at 51.2 N, 20.0 E"."""
        if len(index) < 2:
            return f"cell {', '.join(map(str, index))}"
        if self.grid is None:
            return f"cell {index}"
        latitude, longitude = float(self.grid.latitudes[index[0]]), float(self.grid.longitudes[index[1]])
        side = "N" if latitude >= 0 else "S"
        return f"cell {index} at {abs(latitude):.4g} {side}, {longitude:.4g} E"


def cells_of(
    grid: GridLike | None,
    shape: tuple[int, ...] | None,
    weights: Tensor | None,
    regions: Mapping[str, Box | Tensor] | None,
) -> Cells:
    """Return cells and region weights of a verification.

    Raises:
        ConfigError: If there is neither grid nor shape, or a region is empty, has negative weights or a taken name.
        ShapeMismatch: If shapes differ.
        NonFinite: If weights are NaN or infinite.
    """
    if grid is None and shape is None:
        raise ConfigError("give grid=Grid(nlat, nlon), or cells=(...), the shape of a field without its channels")
    if grid is not None:
        on_sphere = (len(grid.latitudes), len(grid.longitudes))
        if shape is not None and tuple(shape) != on_sphere:
            raise ShapeMismatch(f"cells {tuple(shape)} are not those of the grid, {on_sphere}")
        shape = on_sphere
    assert shape is not None
    if not isinstance(shape, tuple | list) or not shape:
        raise ConfigError(f"cells are {shape!r}; expected the shape of a field, such as (40,) or (24, 48)")
    shape = tuple(whole(size, "a size of cells", least=1) for size in shape)
    area = _weights(_area(grid, shape, weights), shape, "weights")
    named = {GLOBAL: area}
    for name, region in (regions or {}).items():
        if name == GLOBAL:
            raise ConfigError("region 'global' is there already, all cells; choose another name")
        named[name] = area * _weights(_inside(region, grid, name), shape, f"region {name!r}")
    for name, values in named.items():
        if not float(values.sum()) > 0:
            raise ConfigError(f"region {name!r} has no cell; check its bounds (west to east, degrees) or its mask")
    return Cells(tuple(shape), tuple(named), torch.stack(list(named.values())), grid)


def _area(grid: GridLike | None, shape: tuple[int, ...], weights: Tensor | None) -> Tensor:
    """Return the area (*shape): the weights that are given, of cells or of rows, else those of the grid, else 1."""
    if weights is None:
        rows = torch.ones(shape[:1]) if grid is None else torch.tensor(grid.weights, dtype=torch.float64)
        weights = rows * (len(rows) / rows.sum())
    if tuple(weights.shape) == tuple(shape[:1]):
        weights = weights.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    return weights


def _inside(region: Box | Tensor, grid: GridLike | None, name: str) -> Tensor:
    if not isinstance(region, Box):
        return region
    if grid is None:
        raise ConfigError(f"region {name!r} is a box, which needs grid=...; give a mask of the cells instead")
    return region.mask(grid)


def _weights(values: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    values = torch.as_tensor(values)
    if tuple(values.shape) != tuple(shape):
        raise ShapeMismatch(f"{what}: expected one weight a cell, {tuple(shape)}, found {tuple(values.shape)}")
    values = values.double().contiguous()
    if not bool(torch.isfinite(values).all()):
        raise NonFinite(f"{what}: {int((~torch.isfinite(values)).sum())} weights are NaN or infinite")
    if bool((values < 0).any()):
        raise ConfigError(f"{what}: expected weights >= 0")
    return values
