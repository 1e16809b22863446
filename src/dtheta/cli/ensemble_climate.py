"""Climate of ``dtheta ensemble``: mean and quantiles of many states, of a file in blocks that fit the memory.

A block has all times of some rows of one channel. A file is read once for every block, so a large one takes several
readings and no more memory.

Shape legend: N states, n cells, Q quantiles, C channels, ... the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dtheta.cli.ensemble_files import States
    from dtheta.ensemble.hindcast import Climate

QUANTILES = 21
BLOCK = 256 << 20  # bytes that are read at a time, beside chunks of the file, which come whole
_SORTED = 1 << 22  # values whose quantiles are taken at a time
_SORTING = 40 * _SORTED  # bytes of these in float64, sorted, with what sorting takes


def climate_of(states: Tensor) -> Climate:
    """Return mean and quantiles of states (N, ...)."""
    return _joined([states.flatten(1)], tuple(states.shape[1:]))


def climate_of_file(states: States) -> Climate:
    """Return mean and quantiles of all states of a file.

    Raises:
        NonFinite: for a gap, naming channel, time and cell.
    """
    return _joined(states.blocks(BLOCK), states.shape)


def climate_memory(states: States) -> int:
    """Return about how many bytes ``climate_of_file`` takes at the peak."""
    whole = states.bytes_of_rows(states.shape[1])
    return max(states.bytes_of_rows(1), min(BLOCK, whole)) + _SORTING + 2 * 4 * (1 + QUANTILES) * states.size


def _joined(blocks: Iterable[Tensor], shape: tuple[int, ...]) -> Climate:
    """Return the climate of blocks (N, n) that hold the cells of states of a shape, in order."""
    from dtheta.ensemble.hindcast import Climate

    parts: list[tuple[Tensor, Tensor]] = []
    for block in blocks:
        parts += [_usual(part) for part in block.split(max(1, _SORTED // len(block)), dim=1)]
        del block  # before the next is read
    mean, quantiles = (torch.cat(found, -1) for found in zip(*parts, strict=True))
    return Climate(mean.reshape(shape), quantiles.reshape(QUANTILES, *shape))


def _usual(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (n,) and quantiles (Q, n) of states (N, n)."""
    values, shares = states.double(), torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    return values.mean(0).to(states.dtype), torch.quantile(values, shares, dim=0).to(states.dtype)
