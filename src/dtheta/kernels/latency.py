"""Latency: seconds of one call, of several functions turn by turn, so that what slows the machine slows all of them.

On a CPU it is the time that the CPU gave to this process, all threads together, which other programs do not lengthen
much; the shortest of several measurements is taken. On an accelerator it is wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_SAMPLE = 2e-3  # seconds that one measurement takes at least, far above the resolution of the clock


def latency(functions: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor, repeat: int = 7) -> dict[str, float]:
    """Return the seconds that each function takes of an input, without gradients.

    Args:
        functions: By name.
        x: The input; functions run where it is.
        repeat: Measurements of each.
    """
    with torch.no_grad():
        calls = {name: _calls(function, x) for name, function in functions.items()}
        found = dict.fromkeys(functions, float("inf"))
        for _ in range(repeat):
            for name, function in functions.items():
                found[name] = min(found[name], _seconds(function, x, calls[name]) / calls[name])
    return found


def _calls(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Return how many calls make one measurement; the first one warms up."""
    _seconds(function, x, 1)
    return max(1, round(_SAMPLE / max(_seconds(function, x, 1), 1e-7)))


def _seconds(function: Callable[[Tensor], Tensor], x: Tensor, calls: int) -> float:
    clock = time.process_time if x.device.type == "cpu" else _synchronized
    start = clock()
    for _ in range(calls):
        function(x)
    return clock() - start


def _synchronized() -> float:
    torch.accelerator.synchronize()
    return time.perf_counter()
