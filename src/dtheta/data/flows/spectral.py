"""What flows that are truncated at a degree of spherical harmonics have in common: where their states live."""

from __future__ import annotations

import torch

from dtheta.core.sphere import Grid


class Spectral:
    """A flow with a ``truncation``, its highest degree, and a ``precision``, "float32" or "float64"."""

    truncation: int
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """Of states."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def grid(self) -> Grid:
        """Where states live: the smallest Gauss grid of a multiple of 8 rows that holds the truncation exactly."""
        rows = 8 * (self.truncation // 8 + 1)
        return Grid(rows, 2 * rows)
