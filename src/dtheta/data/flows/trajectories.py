"""Trajectories of a flow, computed once and kept in the cache: what emulators learn from and forecasts are judged by.

A trajectory is the states (T, ...) of one member, a step apart, after its spin-up. Members are drawn by index from the
seed, so other seeds are other, independent trajectories of the same climate. A chaotic flow has no trajectory that two
kinds of machine agree on for long; its statistics are what repeats.

Shape legend: B members, T times; states have any shape.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.cache import build_once, cache_dir
from dtheta.core.jsonfile import json_digest

_VERSION = 1  # counts changes of the flows that change what a trajectory is
_NAME = "states.npy"


class Flow(Protocol):
    """What has trajectories: a frozen dataclass of settings with a step."""

    def spin_up(self, members: int = 1, seed: int = 0, *, steps: int = ...) -> Tensor:
        """Return developed states (members, ...)."""
        ...

    def step(self, state: Tensor, /) -> Tensor:
        """Return the states one step later."""
        ...


def trajectories(flow: Any, members: int, steps: int, seed: int = 0, spin_up: int | None = None) -> Tensor:
    """Return states (members, steps + 1, ...) of a flow, memory-mapped from the cache; do not write to them.

    The first call computes them, all members in one batch; the folder is ``$DTHETA_CACHE/flows``.

    Args:
        flow: a ``Flow``; its fields, with the other arguments, are the key in the cache.
        members: trajectories.
        steps: of the flow, after the spin-up.
        seed: of the starts.
        spin_up: steps that are dropped; None for what the flow thinks enough.

    Raises:
        ConfigError: a number that cannot be meant.
        OutputError: the cache cannot be written.
        NonFinite: the flow blew up.
    """
    members, steps = whole(members, "members", least=1), whole(steps, "steps", least=0)
    what = {"version": _VERSION, "flow": type(flow).__name__, "members": members, "steps": steps, "seed": seed}
    what |= {"spin_up": spin_up, "settings": asdict(flow)}
    key = json_digest(what)[:16]
    folder = cache_dir("flows", f"{type(flow).__name__}-{key}")

    def build(target: Path) -> None:
        (target / "settings.json").write_text(json.dumps(what, sort_keys=True, indent=1))
        _compute(flow, members, steps, seed, spin_up, target / _NAME)

    path = build_once(folder, build, lambda found: (found / _NAME).is_file()) / _NAME
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # copy on write: torch wants memory that can be written


def _compute(flow: Any, members: int, steps: int, seed: int, spin_up: int | None, path: Path) -> None:
    state = flow.spin_up(members, seed, **({} if spin_up is None else {"steps": spin_up}))
    kind = np.dtype(str(state.dtype).removeprefix("torch."))
    kept = np.lib.format.open_memmap(path, "w+", kind, (members, steps + 1, *state.shape[1:]))
    kept[:, 0] = state.numpy()
    for index in range(1, steps + 1):
        state = flow.step(state)
        kept[:, index] = state.numpy()
    kept.flush()
