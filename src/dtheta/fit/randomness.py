"""Randomness of a run: keyed before every use, and the caller's generators given back afterwards.

Every fetch of a batch, every optimizer step and every evaluation seeds the global generators from its own key, so
dropout of step 7 is the same whether the run came there in one go, was resumed, or evaluated in between. No state of
a generator has to be stored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(key: int, device: torch.device | None = None) -> None:
    """Seed the global generators of Python, NumPy, torch on the CPU and, if given, torch on ``device``."""
    random.seed(key)
    np.random.seed(key % (1 << 32))  # noqa: NPY002 - the global generator is the one that data sets draw from
    torch.default_generator.manual_seed(key)  # torch.manual_seed walks over all backends: 200 times slower
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)


@contextmanager
def kept_generators(device: torch.device | None = None) -> Iterator[None]:
    """Run a block and put the global generators back into the state they were in before it."""
    own: Any = torch.get_device_module(device) if device is not None and device.type != "cpu" else None
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    on_device = own.get_rng_state() if own is not None else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
        if own is not None:
            own.set_rng_state(on_device)
