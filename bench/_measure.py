"""How all benchmarks measure: CPU time, one thread, interleaved repetitions, medians; rows and their table.

    ratio = peer / ours (ours / peer where larger is better),   holds = ratio >= goal

CPU time, because other programs run on the machine too; interleaved, because its speed drifts: every repetition runs
all contestants once, so each meets the same conditions. Accelerators are measured by wall time between
synchronizations instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dtheta.reproduce.experiments.timing import cpu_seconds
from dtheta.reproduce.machine import machine


@dataclass(frozen=True)
class Row:
    """One line of a benchmark.

    ``ours`` and ``peer`` are measured, ``limit`` is what physics or theory allows at best, all in ``unit``; ``goal``
    is the ratio to reach (None: shown only), ``holds`` whether it was reached, ``note`` what else was seen.
    """

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    limit: float | None
    goal: float | None
    holds: bool | None
    note: str = ""


def compare(
    name: str,
    ours: float,
    peer: float | None,
    unit: str,
    *,
    goal: float | None = None,
    limit: float | None = None,
    larger_is_better: bool = False,
    note: str = "",
) -> Row:
    """Return the row that compares ``ours`` with ``peer``."""
    ratio = None
    if peer is not None:
        top, bottom = (ours, peer) if larger_is_better else (peer, ours)
        ratio = top / bottom if bottom else float("inf")
    holds = None if goal is None or ratio is None else ratio >= goal
    return Row(name, ours, peer, unit, ratio, limit, goal, holds, note)


def interleaved(contestants: Mapping[str, Callable[[], Any]], repeat: int, warm: int = 1) -> dict[str, float]:
    """Return the median seconds of every contestant over ``repeat`` rounds, after ``warm`` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(warm + repeat):
        for name, run in contestants.items():
            taken = cpu_seconds(run)
            if round_ >= warm:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def device_seconds(run: Callable[[], Any]) -> float:
    """Return the wall seconds of one call on the current accelerator, from idle to idle."""
    torch.accelerator.synchronize()
    start = time.perf_counter()
    run()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def resident(field: str = "VmHWM") -> int:
    """Return the resident bytes of this process: the most so far (VmHWM), or those of now (VmRSS).

    ``ru_maxrss`` would count those of the process that started this one, too.
    """
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def product_rate(m: int, n: int, columns: int, repeat: int = 5) -> float:
    """Return the measured rate, in flops a CPU second, of a float32 product (m, n) by (n, columns)."""
    left, right = torch.ones(m, n), torch.ones(n, columns)
    return 2.0 * m * n * columns / interleaved({"product": lambda: left @ right}, repeat)["product"]


def main(
    title: str,
    measure: Callable[[argparse.Namespace], Iterable[Row]],
    *,
    repeat: int = 5,
    packages: Iterable[str] = ("torch",),
    options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Run a benchmark as a command: ``--json`` prints rows, else a table; ends with code 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print rows as JSON on stdout, progress on stderr")
    parser.add_argument("--repeat", type=int, default=repeat, help=f"repetitions, default {repeat}")
    if options is not None:
        options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in measure(arguments):
        rows.append(row)
        print(f"{row.name}: {'missed' if row.holds is False else 'done'}", file=sys.stderr, flush=True)
    on = machine(packages)
    if arguments.json:
        print(json.dumps([{**asdict(row), "on": on} for row in rows], indent=1))
    else:
        show(title, rows, on)
    sys.exit(any(row.holds is False for row in rows))


def show(title: str, rows: Iterable[Row], on: str) -> None:
    """Print rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=on)
    for name in ("name", "ours", "peer", "unit", "ratio", "limit", "goal", "holds", "note"):
        table.add_column(name, justify="left" if name in ("name", "unit", "note") else "right", overflow="fold")
    for row in rows:
        table.add_row(
            row.name, _number(row.ours), _number(row.peer), row.unit, _number(row.ratio), _number(row.limit),
            _number(row.goal), {True: "yes", False: "NO", None: ""}[row.holds], row.note,
        )  # fmt: skip
    Console(width=max(160, Console().width)).print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
