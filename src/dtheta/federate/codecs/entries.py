"""The entries of a delta in the order of the frame."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dtheta.core.delta import Delta
from dtheta.federate.frame import Frame


def entries(delta: Delta, frame: Frame) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter of the frame with its entries, (n,) on the CPU; zeros where the delta leaves it out."""
    for name in frame.shapes:
        yield name, entries_of(delta, frame, name)


def entries_of(delta: Delta, frame: Frame, name: str) -> Tensor:
    """Return the entries of one parameter, (n,) on the CPU; zeros where the delta leaves it out."""
    if name not in delta:
        return torch.zeros(math.prod(frame.shapes[name]))
    return delta[name].dense().reshape(-1).cpu()
