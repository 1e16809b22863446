"""The three figures of the NTK paper (Jacot, Gabriel and Hongler 2018, arXiv 1806.07572), and the numbers in them.

    kernel      Theta(x0, x) over the circle, widths 500 and 10,000, 10 initializations each, before and after 200 steps
    functions   outputs of trained networks of widths 50 and 1000 against the Gaussian limit
    components  convergence along kernel principal components of 512 digits, widths 100, 1000 and 10,000
    limit       Theta_4(0) = 0.2825, and the convergence of the kernel to its limit as 1 / sqrt(width)

As in the paper: rectifiers, beta = 0.1, learning rate 1, one output; depth 4 on the circle. The paper does not state
the depth of its third experiment; 5 with pixels in [0, 1] gives the eigenvalues that it states, so 5 it is. Gradient
flow is followed there with steps of 10 (30 at width 10,000), below the bound of 44, for a time of 4000. In the first
experiment 16 points are learned. ``--figures FOLDER`` draws the figures; ``--fast`` takes smaller widths, and sets no
goals that need the large ones.

    python bench/ntk.py [--json] [--fast] [--only NAME] [--figures FOLDER] [--trained 3] [--trials 1]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _measure import Row, compare, main
from torch import Tensor

from dtheta.kernels.dynamics import kernel_dynamics
from dtheta.kernels.infinite import Relu, fully_connected, infinite_kernel
from dtheta.kernels.pca import KernelPCA, kernel_pca
from dtheta.reproduce.systems.ntk import (
    DECILE,
    PAPER,
    POINTS,
    THETA_0,
    VALUES,
    Course,
    circle,
    digits,
    fitted_slope,
    follow,
    function_limit,
    infinite,
    jacobian_error,
    kernel_error,
    learned,
    trained_kernel,
)


@dataclass
class Seen:
    """What was measured, for the figures: name of the experiment -> its record."""

    records: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """The kernel of networks at every angle, (inits, points) before training and (trained, points) after it."""

    width: int
    before: Tensor
    after: Tensor

    @property
    def start(self) -> Tensor:
        """Kernels before training of those that were trained."""
        return self.before[: len(self.after)]


def kernel_figure(arguments: argparse.Namespace, seen: Seen) -> Iterator[Row]:
    """Widths against each other: spread over initializations, and movement in 200 steps."""
    widths, inits = ((500, 2000), 3) if arguments.fast else ((500, 10_000), 10)
    angles = torch.linspace(-math.pi, math.pi, 41)
    x0, x = circle(torch.zeros(1)), circle(angles)
    limit = infinite(torch.cat([x0, x]), 4)[0, 1:]
    trained = inits, min(inits, arguments.trained)
    narrow, wide = (sweep(width, inits, count, x0, x) for width, count in zip(widths, trained, strict=True))
    seen.records["kernel"] = (angles, limit, narrow, wide)
    expected = math.sqrt(widths[1] / widths[0])
    for name, at in (("before", "before"), ("after 200 steps", "after")):
        kernels = [getattr(one, at) for one in (wide, narrow)]
        count = len(kernels[0])
        title = f"kernel, spread {name}, width {widths[1]} against {widths[0]}"
        note = f"{count} initializations; 1 / sqrt(width) expects {expected:.1f}"
        if count > 1:
            goal = expected / 2 if count > 5 else None
            yield compare(title, spread(kernels[0]), spread(kernels[1]), "relative", goal=goal, note=note)
    moved = [float((one.after - one.start).norm() / one.start.norm()) for one in (wide, narrow)]
    title = f"kernel, movement in 200 steps, width {widths[1]} against {widths[0]}"
    yield compare(title, moved[0], moved[1], "relative", goal=None if arguments.fast else expected / 2)
    for one in (wide, narrow):
        inflation = float(one.after.mean() / one.start.mean())
        mean = one.before.mean(0)
        error = one.before.std(0) / inits**0.5
        off = float(((mean - limit) / error).square().mean().sqrt())
        top = f"{float(mean[20]):.4f} at 0 (limit {float(limit[20]):.4f})"
        yield compare(f"kernel, inflation, width {one.width}", inflation, None, "after / before", note=f"mean {top}")
        yield compare(f"kernel, mean against the limit, width {one.width}", off, None, "standard errors")


def sweep(width: int, inits: int, trained: int, x0: Tensor, x: Tensor) -> Sweep:
    """Draw ``inits`` networks and train the first ``trained`` of them for 200 steps on x1 x2."""
    before, after = [], []
    for seed in range(inits):
        start, end, error = trained_kernel(width, seed, x0, x, 200 if seed < trained else 0)
        before.append(start)
        if seed < trained:
            after.append(end)
            say(f"width {width}, initialization {seed}: mean error {error:.3f}")
    return Sweep(width, torch.stack(before), torch.stack(after))


def spread(kernels: Tensor) -> float:
    """Standard deviation over initializations, relative to the mean, averaged over the circle."""
    return float((kernels.std(0) / kernels.mean(0)).mean())


def function_figure(arguments: argparse.Namespace, seen: Seen) -> Iterator[Row]:
    """Ten networks after 1000 steps on four points, in units of the limiting Gaussian."""
    widths, inits, steps = (50, 400 if arguments.fast else 1000), 10, 1000
    angles = torch.linspace(-math.pi, math.pi, 61)
    limit = function_limit(steps, angles)
    found = {width: torch.stack([learned(width, seed, steps, circle(angles)) for seed in range(inits)])
             for width in widths}  # fmt: skip
    seen.records["functions"] = (angles, POINTS, VALUES, limit, found)
    free = limit.deviation > 0.2 * limit.deviation.max()  # near the data all networks agree
    for width, outputs in found.items():
        z = ((outputs.double() - limit.mean[:, 0]) / limit.deviation)[:, free]
        inside = float((z.abs() < DECILE).double().mean())
        off = float(z.mean(0).square().mean().sqrt())
        note = f"{100 * inside:.0f} % between the 10 and 90 percentiles (80 expected); mean off by {off:.2f} deviations"
        goal = 0.75 if width > 500 else None
        size = float(z.square().mean().sqrt())
        yield compare(f"functions, deviation from the limit, width {width}", max(size, 1 / size), 1.0, "of the limit's",
                      goal=goal, note=f"{size:.2f} times; {note}")  # fmt: skip


def component_figure(arguments: argparse.Namespace, seen: Seen) -> Iterator[Row]:
    """Start half a component away from the target, and see how it gets there."""
    x, labels = digits(256 if arguments.fast else 512)
    K = infinite(x, 5)
    pca = kernel_pca(K, 3)
    values = [float(v) for v in pca.values]
    for i, (ours, paper) in enumerate(zip(values, PAPER, strict=True)):
        note = "other digits of the same set" if not arguments.fast else "256 digits"
        goal = 0.85 if not arguments.fast else None
        yield compare(f"components, eigenvalue {i + 1} against the paper's", max(ours / paper, paper / ours), 1.0,
                      "factor", goal=goal, note=f"{ours:.5f}, paper {paper}; {note}")  # fmt: skip
    yield beta_row(x, values)
    plans = [(100, 10.0, 2), (1000, 10.0, 2)]
    if not arguments.fast:
        plans.append((10_000, 30.0, arguments.trials))
    paths = [follow(x, pca, width, rate, trial) for width, rate, trials in plans for trial in range(trials)]
    seen.records["components"] = (pca, labels, paths)
    yield from component_rows(K, pca, paths)


def beta_row(x: Tensor, values: list[float]) -> Row:
    """The conditioning with beta = 1."""
    spec = fully_connected(depth=5, activation=Relu(), b_std=1.0)
    large = kernel_pca(infinite_kernel(spec, x.double()), 2).values
    ratios = values[0] / values[1], float(large[0] / large[1])
    note = f"lambda1 / lambda2 is {ratios[0]:.0f} with beta 0.1, {ratios[1]:.0f} with beta 1; the paper: about 10 times"
    return compare("components, conditioning with beta = 1", ratios[1] / ratios[0], None, "times", note=note)


def component_rows(K: Tensor, pca: KernelPCA, paths: list[Course]) -> Iterator[Row]:
    """Decay along the component against theory, deviation across it, and the inflation of narrow networks."""
    f2, value = pca.functions[:, 1], float(pca.values[1])
    dynamics = kernel_dynamics(K, 0.5 * f2, average="examples")
    for path in paths:
        steps = len(path.times) - 1
        outputs = dynamics.descent(steps, path.rate).outputs[:, 0]
        theory = float(((0.5 * f2 - outputs) * f2).mean())
        speed = path.speed(value)
        note = (
            f"{float(path.along[-1]):.4f} at time 4000; {theory:.4f} by theory with these steps, "
            f"{0.5 * math.exp(-4000 * value):.4f} by the flow; at most {float(path.across.max()):.3f} across"
        )
        goal = 0.9 if path.width >= 10_000 else None
        yield compare(f"components, speed, width {path.width}", max(speed, 1 / speed), 1.0, "factor", goal=goal,
                      note=f"{speed:.2f} times lambda2; {note}")  # fmt: skip


def limit_rows(arguments: argparse.Namespace, seen: Seen) -> Iterator[Row]:
    """The kernel of the limit, of finite networks, and how the second approaches the first."""
    x0 = circle(torch.zeros(1))
    error = abs(float(infinite(x0, 4)) - THETA_0)
    yield compare("limit, Theta_4(0) = 0.2825", error, 1e-12, "absolute error", goal=1.0)
    yield compare("limit, structured kernel against the Jacobian", jacobian_error(), 1e-5, "relative error", goal=1.0)
    widths, draws = ((64, 256, 1024), 20) if arguments.fast else ((64, 256, 1024, 4096), 20)
    errors = []
    for width in widths:
        errors.append(kernel_error(width, range(100, 100 + draws)))
        say(f"width {width}: kernel off by {errors[-1]:.4f} (root mean square, relative)")
    slope = float(fitted_slope([math.log(w) for w in widths], [math.log(e) for e in errors]))
    seen.records["limit"] = (widths, errors)
    note = f"slope {slope:.3f}; " + ", ".join(f"{w}: {e:.4f}" for w, e in zip(widths, errors, strict=True))
    yield compare("limit, slope of the error over the width is -1/2", abs(slope + 0.5), 0.08, "absolute error",
                  goal=1.0, note=note)  # fmt: skip


def say(text: str) -> None:
    """Progress on stderr."""
    print(text, file=sys.stderr, flush=True)


PARTS = {
    "limit": limit_rows,
    "functions": function_figure,
    "kernel": kernel_figure,
    "components": component_figure,
}


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows, then draw what was asked for."""
    seen = Seen()
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            yield from part(arguments, seen)
    if arguments.figures is not None:
        from _ntk_figures import draw

        say(f"figures: {draw(seen.records, Path(arguments.figures))}")


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--fast", action="store_true", help="smaller widths, fewer initializations, about two minutes")
    parser.add_argument("--only", choices=tuple(PARTS), help="one part only")
    parser.add_argument("--figures", metavar="FOLDER", help="write the figures as a page there")
    parser.add_argument("--trained", type=int, default=3, help="of 10 networks on the circle, how many of the wide "
                        "ones are trained, default 3")  # fmt: skip
    parser.add_argument("--trials", type=int, default=1, help="trials of width 10,000 on digits, default 1")


if __name__ == "__main__":
    main("Figures of the NTK paper", measure, options=options)
