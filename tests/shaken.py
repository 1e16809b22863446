"""Adapters that have moved, so that what they do can be told from what the model does without them."""

from __future__ import annotations

import torch

from dtheta.adapt.adapter import Adapter
from dtheta.core.seeds import generator


def shaken(adapter: Adapter, size: float = 0.3, seed: int = 0) -> Adapter:
    """Return an adapter after adding normal numbers times ``size`` to all that trains, drawn by seed and name."""
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(torch.randn(p.shape, generator=generator(seed, name)).to(p), alpha=size)
    return adapter
