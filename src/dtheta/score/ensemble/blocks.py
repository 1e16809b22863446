"""Members of a few cells at a time, side by side and sorted.

Fields come with their members far apart in memory, and what sorts them wants them together. A block of cells that stays
in the cache is subtracted from (which reads the strided members once), transposed and sorted, so nothing of the size of
the ensemble is ever written. NumPy sorts on the processor, by vector instructions where it has them; torch elsewhere.

Shape legend: M members, N cells, b cells of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 17  # values sorted together: half a megabyte
_DEVICE_BLOCK = 1 << 26  # the same on an accelerator


def sorted_blocks(forecast_MN: Tensor, truth_N: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield (cells, their members less the truth, (b, M), rising); in the finer dtype of the two."""
    members, cells = forecast_MN.shape
    if forecast_MN.device.type != "cpu":
        yield from _on_device(forecast_MN, truth_N)
        return
    x_MN, y_N = forecast_MN.numpy(), None if truth_N is None else truth_N.numpy()
    size = max(1, _BLOCK // members)
    for start in range(0, cells, size):
        part = slice(start, min(start + size, cells))
        x = x_MN[:, part] if y_N is None else x_MN[:, part] - y_N[part]
        side_by_side = np.array(x.T, order="C")  # always a copy: it is sorted in place
        side_by_side.sort(axis=1)
        yield part, torch.from_numpy(side_by_side)


def _on_device(forecast_MN: Tensor, truth_N: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """The same by torch, in blocks that keep an accelerator busy."""
    members, cells = forecast_MN.shape
    size = max(1, _DEVICE_BLOCK // members)
    for start in range(0, cells, size):
        part = slice(start, min(start + size, cells))
        x = forecast_MN[:, part] if truth_N is None else forecast_MN[:, part] - truth_N[part]
        yield part, x.T.contiguous().sort(dim=1).values
