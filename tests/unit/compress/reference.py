"""ComPEFT in the plainest way, to compare with: everything dense, one stable sort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator


def draw(*shape: int, index: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same at every call."""
    return torch.randn(shape, generator=generator(0, f"compress/{shape}", index), dtype=dtype)


def dense_delta(**shapes: Sequence[int]) -> Delta:
    """A delta of dense changes of these shapes."""
    return Delta({name: Dense(1e-3 * draw(*shape, index=i)) for i, (name, shape) in enumerate(shapes.items())})


def top_signs(values: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Signs of the k largest entries of all tensors together: names sorted, the first of equals kept, never a zero."""
    names = sorted(values)
    line = torch.cat([values[name].reshape(-1).double() for name in names])
    k = max(1, math.floor(density * line.numel() + 0.5))
    kept = torch.argsort(line.abs(), descending=True, stable=True)[:k]
    signs = torch.zeros_like(line)
    signs[kept] = line[kept].sign()
    parts = signs.split([values[name].numel() for name in names])
    return {name: part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}


def mean_abs(values: Mapping[str, Tensor], signs: Mapping[str, Tensor]) -> float:
    """Mean magnitude of the kept entries of all tensors."""
    kept = torch.cat([values[name].double().abs()[sign != 0] for name, sign in signs.items()])
    return float(kept.mean()) if kept.numel() else 0.0
