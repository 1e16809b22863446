"""Rescaling of perturbations to a size that was chosen: what breeding does after every cycle.

    vector <- vector * amplitude / R       R: root mean square of the vector, taken where it is to be equal

    GlobalRescaling        one R for the whole state, of vector / amplitude; the shape of the vector stays
    VariableRescaling      R for each channel
    GroupRescaling         R for each group of elements: layers, positions, whatever has a label
    HemisphericRescaling   R for each channel and latitude: that of the northern cap, that of the southern, linear in
                           between (Mahesh et al. 2025, arXiv 2408.03100)

What is zero stays zero. Means over the sphere are weighted by area. In the released code the mean over a cap divides by
the weights of the whole globe, which makes R too small by sqrt(0.85) and perturbations larger than asked for by 9 %;
here a cap has exactly the amplitude.

Shape legend: B rows, C channels, H latitudes, W longitudes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import number
from dtheta.core.sphere import Grid
from dtheta.errors import ConfigError, ShapeMismatch


class Rescaling(ABC):
    """A way to bring vectors to an amplitude."""

    @abstractmethod
    def sizes(self, vectors: Tensor) -> Tensor:
        """Return R, (B, ...) or what broadcasts to it."""

    def __call__(self, vectors: Tensor, amplitude: Tensor) -> Tensor:
        """Return vectors (B, ...) that have the amplitude, which broadcasts to a state (...)."""
        sizes = self.sizes(vectors)
        return vectors * torch.where(sizes > 0, amplitude / sizes, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return what it is called, and its settings."""
        return {"name": type(self).__name__}


@dataclass(frozen=True)
class GlobalRescaling(Rescaling):
    """One factor for all of a state, so that the balance between channels and places stays.

    Attributes:
        grid: whose areas weigh the mean; None for equal weights.
        channels: of which the size is measured; None for all whose amplitude is not 0.
    """

    grid: Grid | None = None
    channels: Sequence[int] | None = None

    def sizes(self, vectors: Tensor) -> Tensor:
        """Return R (B, 1, ...)."""
        return _rms(vectors, self.grid, tuple(range(1, vectors.ndim)))

    def __call__(self, vectors: Tensor, amplitude: Tensor) -> Tensor:
        """Return vectors whose mean square, in units of the amplitude, is 1."""
        full = amplitude.expand(vectors.shape[1:])
        relative = torch.where(full > 0, vectors / full, 0.0)
        counted = relative if self.channels is None else relative[:, list(self.channels)]
        size_of_one = self.sizes((full > 0).to(vectors.dtype)[None]) if self.channels is None else 1.0
        sizes = self.sizes(counted) / size_of_one
        return relative * torch.where(sizes > 0, 1.0 / sizes, 0.0) * full

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        grid = None if self.grid is None else self.grid.to_dict()
        return {
            "name": "GlobalRescaling",
            "grid": grid,
            "channels": None if self.channels is None else [*self.channels],
        }


@dataclass(frozen=True)
class VariableRescaling(Rescaling):
    """The amplitude in each channel: the first axis of a state of two or more axes; a vector is one channel.

    Attributes:
        grid: whose areas weigh the mean; None for equal weights.
    """

    grid: Grid | None = None

    def sizes(self, vectors: Tensor) -> Tensor:
        """Return R (B, C, 1, ...)."""
        first = 2 if vectors.ndim > 2 else 1
        return _rms(vectors, self.grid, tuple(range(first, vectors.ndim)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"name": "VariableRescaling", "grid": None if self.grid is None else self.grid.to_dict()}


@dataclass(frozen=True, eq=False)
class GroupRescaling(Rescaling):
    """The amplitude in each group of elements.

    Attributes:
        labels: group of every element of a state, whole numbers from 0 on; broadcast to the state.
    """

    labels: Tensor

    def __post_init__(self) -> None:
        """Raise ConfigError for labels that are no whole numbers from 0 on."""
        kind = self.labels.dtype
        if kind.is_floating_point or kind.is_complex or kind == torch.bool or not self.labels.numel():
            raise ConfigError(f"labels are {kind} of shape {tuple(self.labels.shape)}; expected whole numbers")
        if int(self.labels.min()) < 0:
            raise ConfigError(f"labels hold {int(self.labels.min())}; expected whole numbers from 0 on")

    def sizes(self, vectors: Tensor) -> Tensor:
        """Return R (B, ...)."""
        try:
            labels = self.labels.to(vectors.device, torch.int64).expand(vectors.shape[1:]).reshape(-1)
        except RuntimeError:
            found = f"{tuple(self.labels.shape)} and {tuple(vectors.shape[1:])}"
            raise ShapeMismatch(f"labels and state have the shapes {found}; expected a label an element") from None
        squares = vectors.flatten(1).square()
        sums = squares.new_zeros(len(vectors), int(labels.max()) + 1).index_add_(1, labels, squares)
        counts = torch.bincount(labels)
        return (sums / counts).sqrt()[:, labels].reshape(vectors.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the number of groups."""
        return {"name": "GroupRescaling", "groups": int(self.labels.max()) + 1}


@dataclass(frozen=True)
class HemisphericRescaling(Rescaling):
    """The amplitude in each channel of each cap, for states (..., H, W).

    Attributes:
        grid: of the states.
        tropics: latitude in degrees from which poleward a cap reaches.
    """

    grid: Grid
    tropics: float = 20.0

    def __post_init__(self) -> None:
        """Raise ConfigError for caps without a row."""
        if not 0 <= number(self.tropics, "tropics") < float(self.grid.latitudes[0]):
            raise ConfigError(
                f"tropics is {self.tropics!r}; expected degrees from 0 to below {self.grid.latitudes[0]:.1f}, the "
                "northernmost row of the grid"
            )

    def sizes(self, vectors: Tensor) -> Tensor:
        """Return R (B, ..., H, 1)."""
        self.grid.check(vectors, "a state")
        latitudes = torch.from_numpy(self.grid.latitudes.copy())
        north, south = (self._cap(vectors, rows) for rows in (latitudes >= self.tropics, latitudes <= -self.tropics))
        share = ((latitudes + self.tropics) / (2 * self.tropics)).clamp(0, 1) if self.tropics else (latitudes >= 0)
        share = share.to(vectors.device, vectors.dtype)[:, None]
        return share * north + (1 - share) * south

    def _cap(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Return the root mean square over the rows of a cap (B, ..., 1, 1)."""
        weights = torch.from_numpy(self.grid.weights.copy())[rows].to(vectors.device, vectors.dtype)
        squares = vectors[..., rows.to(vectors.device), :].square().mean(-1)
        return ((squares * weights).sum(-1) / weights.sum()).sqrt()[..., None, None]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"name": "HemisphericRescaling", "grid": self.grid.to_dict(), "tropics": self.tropics}


def _rms(vectors: Tensor, grid: Grid | None, dims: tuple[int, ...]) -> Tensor:
    squares = vectors.square()
    if grid is not None:
        grid.check(vectors, "a state")
        squares = squares * grid.area_HW(vectors.dtype).to(vectors.device)
    # no axis is left of a state that is one number: torch would take the mean over all rows then
    return (squares.mean(dims, keepdim=True) if dims else squares).sqrt()
