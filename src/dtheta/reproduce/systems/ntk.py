"""The neural tangent kernel: does a network train as its kernel says, and the wider the better?

    Theta(x, x') = df/dtheta(x) . df/dtheta(x')          as in the paper: rectifiers, beta = 0.1, rate 1, one output

Depth is 4 on the circle, and 5 on digits, where the paper does not state it and 5 gives the eigenvalues that it states.
Gradient flow is followed with steps well below the bound of stability.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.data.image_tasks import load_image_task
from dtheta.kernels.dynamics import kernel_dynamics
from dtheta.kernels.gaussian_limit import gaussian_limit
from dtheta.kernels.infinite import Relu, fully_connected, infinite_kernel
from dtheta.kernels.infinite.layer import Serial
from dtheta.kernels.pca import KernelPCA, kernel_pca
from dtheta.kernels.tangent import tangent_kernel
from dtheta.models.classifier import classifier
from dtheta.models.load import load_model
from dtheta.reproduce.claim import Claim, Row, exact, geometric, over_seeds, paired, percent
from dtheta.reproduce.experiments.wide import Network
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("Neural tangent kernel", "Jacot, Gabriel and Hongler 2018, arXiv 1806.07572", "ntk-dynamics.md")
BETA = 0.1
PAPER = (0.0457, 0.00108, 0.00078)  # eigenvalues of K / N that the paper states for 512 digits
THETA_0 = 0.2825  # Theta_4(0), from its recursion by hand: .51, .52, .4025, .2825
POINTS = torch.tensor([-2.2, -0.9, 0.5, 1.8])  # angles that are learned, and what is to come out
VALUES = torch.tensor([0.3, -0.2, 0.35, -0.1])
DECILE = 1.2816  # 10 and 90 percentiles of a normal distribution lie at -z and z

LIMIT = Claim("the limit", "The limiting kernel of depth 4 on the circle is 0.2825 at angle 0.", "Figure 1 shows it")
RATE = Claim(
    "kernels converge",
    "At random start the kernel is off its limit by 1 / sqrt(width), to 0.1 in the exponent.",
    "Theorem 1: converges in probability",
)
FIXED = Claim(
    "wide kernels stand still",
    "In 200 steps of gradient descent the kernel moves less in a wide network than in a narrow one.",
    "Theorem 2 and figure 1, widths 500 and 10,000",
)
FUNCTIONS = Claim(
    "trained functions are Gaussian",
    "At least 70 % of a trained wide network's outputs lie between the limit's 10 and 90 percentiles, which hold 80.",
    "Figure 2, widths 50 and 1000, 10 networks, 4 points on the circle, 1000 steps",
)
EIGENVALUES = Claim(
    "eigenvalues on digits",
    "The three largest eigenvalues of the limiting kernel on 512 digits are within a fifth of those stated.",
    "Figure 3, MNIST, 512 digits: 0.0457, 0.00108, 0.00078",
)
COMPONENTS = Claim(
    "rate of a component",
    "The wider the network, the nearer is the rate of its error along a kernel principal component to the eigenvalue.",
    "Figure 3, widths 100, 1000 and 10,000",
)
INFLATION = Claim(
    "narrow ones are faster",
    "The error along that component falls faster in a narrow network than the eigenvalue says.",
    "Figure 3, widths 100 and 1000",
)
JACOBIAN = Claim(
    "the kernel of a pretrained model",
    "The kernel computed by structure is the product of Jacobians, to 1e-5 of its largest entry.",
    "By definition",
)


def circle(angles: Tensor) -> Tensor:
    """(m,) -> (m, 2)."""
    return torch.stack([angles.cos(), angles.sin()], 1)


def infinite(x: Tensor, depth: int) -> Tensor:
    """Tangent kernel of the limit, float64."""
    return infinite_kernel(network_of(depth), x.double())


def network_of(depth: int) -> Serial:
    """The network whose limit this is."""
    return fully_connected(depth=depth, activation=Relu(), b_std=BETA)


def kernel_error(width: int, seeds: Sequence[int], points: int = 8) -> float:
    """Return the root mean square error of kernels on the circle at the start, relative to the limit."""
    x = circle(torch.linspace(-math.pi, math.pi, points + 1)[:-1])
    limit = infinite(x, 4)
    found = torch.stack([Network(2, width, 4, BETA, seed).kernel(x) for seed in seeds])
    return float(((found - limit).square().mean() / limit.square().mean()).sqrt())


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line."""
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def product_data() -> tuple[Tensor, Tensor]:
    """Return 16 normal points (16, 2) and x1 x2 of each, which figure 1 learns."""
    data = torch.randn(16, 2, generator=generator(0, "ntk bench inputs"))
    return data, data[:, 0] * data[:, 1]


def trained_kernel(width: int, seed: int, x0: Tensor, x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor, float]:
    """Return Theta(x0, x) (m,) before and after learning x1 x2, and the mean error that is left."""
    network = Network(2, width, 4, BETA, seed)
    data, target = product_data()
    before = network.kernel(x0, x)[0]
    for _ in range(steps):
        network.descend(data, target, 1.0)
    return before, network.kernel(x0, x)[0], float((network(data) - target).abs().mean())


def movement(width: int, seed: int, steps: int) -> float:
    """Return how far the kernel of one network moves, relative to its start."""
    before, after, _ = trained_kernel(width, seed, circle(torch.zeros(1)), circle(torch.linspace(-3.1, 3.1, 21)), steps)
    return float((after - before).norm() / before.norm())


def learned(width: int, seed: int, steps: int, x: Tensor) -> Tensor:
    """Return the outputs (m,) on ``x`` of a network that learned the four points with rate 1."""
    network = Network(2, width, 4, BETA, seed)
    for _ in range(steps):
        network.descend(circle(POINTS), VALUES, 1.0)
    return network(x)


def function_limit(steps: int, angles: Tensor) -> Any:
    """Return the Gaussian limit of what networks put out at angles (m,) after so many steps."""
    both = infinite_kernel(network_of(4), torch.cat([circle(POINTS), circle(angles)]).double(), get="both")
    return gaussian_limit(both.nngp, both.ntk, VALUES, float(steps), average="examples")


def inside(width: int, seed: int, steps: int) -> float:
    """Return the share of one network's outputs between the limit's deciles, away from the data."""
    angles = torch.linspace(-math.pi, math.pi, 61)
    limit = function_limit(steps, angles)
    free = limit.deviation > 0.2 * limit.deviation.max()  # near the data all networks agree
    z = (learned(width, seed, steps, circle(angles)).double() - limit.mean[:, 0]) / limit.deviation
    return float((z[free].abs() < DECILE).double().mean())


@cache
def digits(count: int) -> tuple[Tensor, Tensor]:
    """Images (count, 784) in [0, 1] and their labels."""
    train = load_image_task("mnist", n_train=count).train
    return train.images.reshape(count, -1).float() / 255, train.labels


@dataclass(frozen=True)
class Course:
    """Components of f_t - f* along f2 (steps,) and orthogonal to it (steps,), at ``times``."""

    width: int
    rate: float
    times: Tensor
    along: Tensor
    across: Tensor

    def speed(self, value: float) -> float:
        """Return the mean rate over the eigenvalue, while the decay is clear of what is left across the component."""
        last = int((self.along > 0.1).nonzero().max())
        return math.log(0.5 / float(self.along[last])) / float(self.times[last]) / value


def follow(x: Tensor, pca: KernelPCA, width: int, rate: float, trial: int, time: float = 4000.0) -> Course:
    """Train towards f_0 + f2 / 2."""
    network = Network(x.shape[1], width, 5, BETA, trial)
    f2 = pca.functions[:, 1].float()
    target, steps = network(x) + 0.5 * f2, round(time / rate)
    along, across = [], []
    for step in range(steps + 1):
        error = (network.descend(x, target, rate) if step < steps else network(x)) - target
        g = (error * f2).mean()
        along.append(float(g.abs()))
        across.append(float((error - g * f2).square().mean().sqrt()))
    return Course(width, rate, torch.arange(steps + 1) * rate, torch.tensor(along), torch.tensor(across))


def limit_speed(K: Tensor, pca: KernelPCA, rate: float, time: float) -> float:
    """Return the same of the limit: what steps of this length make of the flow."""
    f2 = pca.functions[:, 1]
    dynamics = kernel_dynamics(K, 0.5 * f2, average="examples")
    outputs = [dynamics.descent(step, rate).outputs[:, 0] for step in range(round(time / rate) + 1)]
    along = torch.stack([((0.5 * f2 - output) * f2).mean().abs() for output in outputs]).float()
    return Course(0, rate, torch.arange(len(along)) * rate, along, along).speed(float(pca.values[1]))


def jacobian_error(layers: int = 1, examples: int = 3) -> float:
    """Return the largest error of a pretrained model's kernel against autograd's Jacobians, over the largest entry."""
    net = classifier(load_model("minilm", layers=layers), ("a", "b"))
    with torch.no_grad():
        net.head.weight.normal_(generator=generator(0, "ntk head"))
    ids = torch.randint(1000, 20_000, (examples, 8), generator=generator(0, "ntk ids"))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    net.requires_grad_(False)
    moving = [p.requires_grad_() for n, p in net.named_parameters() if "encoder.layer" in n]
    outputs = net(**batch).logits
    rows = [torch.autograd.grad(value, moving, retain_graph=True) for value in outputs.flatten()]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).double().view(examples, 2, -1)
    expected = torch.einsum("nop,mop->nm", J, J) / 2
    found = tangent_kernel(net, batch, select="encoder.encoder.layer.*")
    net.requires_grad_(True)
    return float((found - expected).abs().max() / expected.abs().max())


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments, and yield a row a claim."""
    error = abs(float(infinite(circle(torch.zeros(1)), 4)) - THETA_0)
    yield Row(LIMIT, "closed form in float64", exact(error), "absolute error", 1e-12, "below")
    yield _rate_row(lab)
    yield _movement_row(lab)
    yield _function_row(lab)
    yield _eigenvalue_row()
    yield from _component_rows(lab)
    wrong = lab.run("jacobian", "minilm", 0, lambda: {"error": jacobian_error()})["error"]
    here = "minilm, first layer, a head of two outputs, 3 texts of 8 tokens, all weights of the layer"
    yield Row(JACOBIAN, here, exact(wrong), "of the largest entry", 1e-5, "below")


def _rate_row(lab: Lab) -> Row:
    widths, draws = lab.sized(((64, 256, 1024), 20), ((64, 256, 1024, 4096), 20))
    slopes = []
    for seed in lab.seeds_or(5, 5):
        seeds = range(100 + seed * draws, 100 + (seed + 1) * draws)
        run = lab.run("rate", f"{widths}", seed, lambda s=seeds: {"errors": [kernel_error(w, s) for w in widths]})
        slopes.append(fitted_slope([math.log(w) for w in widths], [math.log(e) for e in run["errors"]]))
    here = f"8 points on the circle, widths {', '.join(map(str, widths))}, {len(slopes)} times {draws} initializations"
    off = over_seeds([abs(slope + 0.5) for slope in slopes])
    note = f"Mean exponent {sum(slopes) / len(slopes):.3f}."
    return Row(RATE, here, off, "away from -1/2", 0.1, "below", note)


def _movement_row(lab: Lab) -> Row:
    widths, steps, seeds = lab.sized((100, 1000), (500, 5000)), 200, lab.seeds_or(4, 5)

    def moved(width: int, seed: int) -> float:
        make = lambda: {"moved": movement(width, seed, steps)}  # noqa: E731
        return float(lab.run("movement", f"width {width}", seed, make)["moved"])

    found = geometric([moved(widths[1], seed) / moved(widths[0], seed) for seed in seeds])
    here = f"widths {widths[0]} and {widths[1]}, {len(seeds)} initializations, 200 steps of rate 1 on 16 points"
    note = f"1 / sqrt(width) expects {math.sqrt(widths[0] / widths[1]):.2f}; the proof asks for smooth activations."
    return Row(FIXED, here, found, "times", 1.0, "below", note)


def _function_row(lab: Lab) -> Row:
    width, steps, seeds = lab.sized(300, 1000), lab.sized(300, 1000), lab.seeds_or(12, 20)
    shares = [
        100 * lab.run("functions", f"width {width}", s, lambda s=s: {"inside": inside(width, s, steps)})["inside"]
        for s in seeds
    ]
    here = f"width {width}, {len(seeds)} initializations, {steps} steps of rate 1 on 4 points of the circle"
    return Row(FUNCTIONS, here, percent(shares), "%", 70.0, note="Angles near the four points are left out.")


def _eigenvalue_row() -> Row:
    x, _ = digits(512)
    values = [float(v) for v in kernel_pca(infinite(x, 5), 3).values]
    worst = max(max(ours / paper, paper / ours) for ours, paper in zip(values, PAPER, strict=True))
    note = "Found " + ", ".join(f"{v:.5f}" for v in values) + "; other digits of the same set."
    return Row(EIGENVALUES, "512 digits of MNIST, depth 5, float64", exact(worst), "times", 1.2, "below", note)


def _component_rows(lab: Lab) -> Iterator[Row]:
    count, widths, rate, time = lab.sized((128, (300, 1000), 20.0, 2000.0), (512, (300, 3000), 20.0, 4000.0))
    x, _ = digits(count)
    K = infinite(x, 5)
    pca = kernel_pca(K, 3)
    value = float(pca.values[1])
    seeds = lab.seeds_or(4, 3)

    def speed(width: int, seed: int) -> float:
        make = lambda: {"speed": follow(x, pca, width, rate, seed, time).speed(value)}  # noqa: E731
        return float(lab.run("components", f"width {width}", seed, make)["speed"])

    narrow, wide = ([speed(width, seed) for seed in seeds] for width in widths)
    here = f"{count} digits of MNIST, depth 5, component 2, {len(seeds)} initializations, rate {rate:g} to {time:g}"
    means = [sum(speeds) / len(speeds) for speeds in (narrow, wide)]
    note = f"Speeds over the eigenvalue {means[0]:.2f} and {means[1]:.2f}; "
    note += f"of the limit itself, with steps of this length, {limit_speed(K, pca, rate, time):.2f}."
    nearer = paired(*([abs(math.log(speed)) for speed in speeds] for speeds in (narrow, wide)))
    yield Row(COMPONENTS, f"{here}, widths {widths[0]} and {widths[1]}", nearer, "of a logarithm", 0.0, note=note)
    yield Row(INFLATION, f"{here}, width {widths[0]}", geometric(narrow), "times", 1.0)
