"""Few shots: k images of each class, drawn by key.

Image i of class c stands at the place of ``key(seed, "few-shot/c", i)`` among its class, and the first k are taken: so
fewer shots of the same seed are a part of more shots, and what is drawn of a class does not depend on the others.
"""

from __future__ import annotations

import torch

from dtheta.data.images import Images
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError


def few_shot(images: Images, shots: int, seed: int) -> Images:
    """Return ``shots`` images of each class 0 to C-1, class by class; C-1 is the largest label there is.

    Raises:
        ConfigError: fewer than one shot is wanted, or a class has fewer images than that.
    """
    if shots < 1:
        raise ConfigError(f"shots={shots} must be at least 1")
    counts = images.labels.bincount().tolist()
    if not counts or min(counts) < shots:
        least = min(counts, default=0)
        which = f"class {counts.index(least)} has {least}" if counts else "there are none at all"
        raise ConfigError(f"shots={shots}: each class needs as many images, but {which}; take fewer shots")
    return images.take(torch.cat([_drawn(images, label, shots, seed) for label in range(len(counts))]))


def _drawn(images: Images, label: int, shots: int, seed: int) -> torch.Tensor:
    members = (images.labels == label).nonzero().flatten()
    return members[keyed_order(len(members), seed, f"few-shot/{label}")[:shots]]
