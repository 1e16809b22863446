"""Leave-one-out in closed form against n refits: gradient flow and ridge regression, eigenvalues included.

python bench/leave_one_out.py [--json] [--repeat 3]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _measure import Row, compare, interleaved, main
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.kernels.dynamics import KernelDynamics, KernelPredictor, kernel_dynamics
from dtheta.kernels.leave_one_out import early_stopping_time, leave_one_out

TIME, PENALTY = 50.0, 0.01


def problem(examples: int, outputs: int) -> tuple[Tensor, Tensor]:
    """A kernel whose eigenvalues span three decades, and noisy targets (n, o)."""
    draw = generator(0, f"leave-one-out bench {examples}")
    scale = torch.logspace(0, -1.5, 3 * examples // 2, dtype=torch.float64)
    J = torch.randn(examples, scale.numel(), generator=draw, dtype=torch.float64) * scale
    theta = torch.randn(scale.numel(), outputs, generator=draw, dtype=torch.float64)
    return J @ J.mT, J @ theta + torch.randn(examples, outputs, generator=draw, dtype=torch.float64)


def refits(kernel: Tensor, y: Tensor, train: Callable[[KernelDynamics], KernelPredictor]) -> Tensor:
    """Predictions (n, o) of n models, each trained without one example."""
    found = []
    for i in range(len(y)):
        rest = [j for j in range(len(y)) if j != i]
        model = train(kernel_dynamics(kernel[rest][:, rest], y[rest]))
        found.append(model.predict(kernel[[i]][:, rest]))
    return torch.cat(found)


def against_refits(
    name: str, request: dict[str, float], train: Callable[[KernelDynamics], KernelPredictor], repeat: int
) -> Iterator[Row]:
    """Time and error of one way to train."""
    kernel, y = problem(200, 3)
    ours, peer = [], []
    runs = {
        "ours": lambda: ours.append(leave_one_out(kernel_dynamics(kernel, y), **request).predictions),
        "peer": lambda: peer.append(refits(kernel, y, train)),
    }
    seconds = interleaved(runs, repeat)
    title = f"{name}, 200 examples, 3 outputs"
    yield compare(title, seconds["ours"], seconds["peer"], "CPU s", goal=30.0)
    error = float((ours[-1] - peer[-1]).abs().max())
    yield compare(f"{title}: error", error, 1e-9, "absolute", goal=1.0)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    yield from against_refits("gradient flow", {"time": TIME}, lambda d: d.flow(TIME), arguments.repeat)
    yield from against_refits("ridge", {"penalty": PENALTY}, lambda d: d.ridge(PENALTY), arguments.repeat)
    kernel, y = problem(1000, 10)
    dynamics = kernel_dynamics(kernel, y)
    runs = {"eigenvalues": lambda: kernel_dynamics(kernel, y), "times": lambda: early_stopping_time(dynamics)}
    seconds = interleaved(runs, arguments.repeat)
    note = f"beside {seconds['eigenvalues']:.2f} s for the eigenvalues"
    yield compare("48 times, 1000 examples, 10 outputs", seconds["times"], None, "CPU s", note=note)


if __name__ == "__main__":
    main("Leave-one-out in closed form", measure, repeat=3)
