"""How long something takes: CPU seconds, in turns, since the speed of a machine drifts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(run: Callable[[], Any]) -> float:
    """Return the CPU seconds of one call, all threads of this process together, without garbage collection."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        run()
        return time.process_time() - start
    finally:
        gc.enable()


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], repeat: int) -> list[float]:
    """Return theirs / ours in CPU seconds, ``repeat`` times; each ratio is of two calls, one right after the other."""
    for run in (ours, theirs):
        run()  # what only the first call does is not timed
    return [cpu_seconds(theirs) / max(cpu_seconds(ours), 1e-9) for _ in range(repeat)]
