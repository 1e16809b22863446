"""SNNK: do layers in which inputs and weights meet in one product train less, run faster, bundle, and need no descent?

adapters    random features behind attention and MLP of every block, against Houlsby's bottlenecks and LoRA, by task
            and draw of the texts; rates tuned on held-out texts of 20news (bench/adapters.py). "Competitive" is judged
            as: the interval of the mean difference in accuracy lies above -1 point
layer       CPU time of a dense layer 768 to 3072 and GELU over that of an SNNK layer, in turns
bundle      two layers 768 to 3072 to 768 against their bundle
head        the last map of a bundled network on images of digits: solved, against AdamW on full batches
estimate    squared error of the untrained layer's estimate of f(W x + b), by number of random features
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from dtheta.adapt.houlsby import Houlsby
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.snnk import SNNK
from dtheta.reproduce.claim import Claim, Row, exact, geometric, paired
from dtheta.reproduce.experiments.classifications import Size, accuracies
from dtheta.reproduce.experiments.snnk_layers import HIDDEN, D, bundle_error, bundles, drawn, estimate_error, layers
from dtheta.reproduce.experiments.solved_heads import head_times
from dtheta.reproduce.experiments.timing import in_turns
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("SNNK", "Sehanobish et al. 2024, arXiv 2310.13225", "snnk.md")
PAPER = "Abstract: up to 5 times fewer trained weights at competitive accuracy (BERT on GLUE, ViT on CIFAR)"
SQUARE, SMALL, BOTTLENECK, LORA = "SNNK m=16", "SNNK m=64, size 8", "Houlsby size 48", "LoRA rank 8"
METHODS: dict[str, tuple[Method, float]] = {
    SQUARE: (SNNK(features=16), 3e-2),
    SMALL: (SNNK(features=64, size=8), 1e-2),
    BOTTLENECK: (Houlsby(size=48), 3e-3),
    LORA: (LoRA(rank=8), 3e-3),
}
MARGIN = 1.0  # points of accuracy: how much less still counts as competitive

FEWER = Claim(
    "5 times fewer weights", "SNNK adapters train at least 5 times fewer weights than bottlenecks of 48.", PAPER
)
FASTER = Claim(
    "a faster layer",
    "An SNNK layer with 64 random features takes less time than the dense layer and GELU that it stands for.",
    "Abstract: favorable computational properties; the cost of l m + m d in place of l d",
)
BUNDLED = Claim(
    "a bundle computes the same",
    "A bundle of two layers gives the outputs of the two, to rounding.",
    "By definition: nothing nonlinear stands between Psi of a layer and the projection of the next",
)
BUNDLE_FASTER = Claim(
    "a bundle is faster",
    "A bundle of two layers takes less time than the two.",
    "About 30 times fewer weights (a review)",
)
SOLVED = Claim(
    "the last map is solved at once",
    "The last map of a bundled network is had in closed form faster than by descent to 0.1 % of the optimum.",
    "Abstract: bundling allows explicit formulas for the optimum, without backpropagation, in some cases",
)
NEARER = Claim(
    "the estimate converges",
    "With four times as many random features the squared error of the estimate of a layer is below half.",
    "Unbiased with variance falling as 1 / m (theorem)",
)


FULL_SIZE, FAST_SIZE = Size(256, 300, 32, 60, 8), Size(96, 150, 16, 10, 8)


@dataclass(frozen=True)
class Budget:
    """How much of everything."""

    tasks: tuple[str, ...] = ("20news", "sentiment", "tweets", "bbc", "r8")
    methods: tuple[str, ...] = (SQUARE, SMALL, BOTTLENECK, LORA)
    size: Size = FULL_SIZE
    repeat: int = 15
    features: int = 512
    steps: int = 1500


FAST = Budget(("20news", "bbc"), (SQUARE, BOTTLENECK, LORA), FAST_SIZE, 7, 128, 1000)


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments."""
    budget = lab.sized(FAST, Budget())
    yield from adapters(lab, budget)
    shape = f"{D} to {HIDDEN}"
    what = f"layer {shape}: 64 ReLU features against dense and GELU"
    yield timed(lab, what, FASTER, layers, budget.repeat)
    what = f"layers {shape} to {D} of 64 ReLU features each: their bundle against the two"
    yield timed(lab, what, BUNDLE_FASTER, bundles, budget.repeat)
    error = lab.run("bundle", "error", 0, bundle_error)["error"]
    here = f"two ReLU layers {D} to {HIDDEN} to {D} of 64 draws each, 32 drawn inputs, float64"
    yield Row(BUNDLED, here, exact(error), "of the largest output", 1e-10, "below", "The largest difference of all.")
    yield solved_head(lab, budget)
    yield converging(lab)


def adapters(lab: Lab, budget: Budget) -> Iterator[Row]:
    """Yield the rows of SNNK adapters against others, by task and draw."""
    draws = [(task, seed) for seed in lab.seeds_or(2, 2) for task in budget.tasks]
    runs = {name: accuracies(lab, name, *METHODS[name], draws, budget.size) for name in budget.methods}
    accuracy = {name: [run["accuracy"] for run in found] for name, found in runs.items()}
    trained = {name: max(run["parameters"] for run in found) for name, found in runs.items()}  # 0 where one diverged
    if diverged := [name for name, weights in trained.items() if not weights]:
        yield Row(FEWER, note=f"Every training diverged: {', '.join(diverged)}.")
        return
    note = "; ".join(f"{name} {sum(values) / len(values):.1f} %" for name, values in accuracy.items())
    for ours in [name for name in budget.methods if "SNNK" in name]:
        for theirs in (BOTTLENECK, LORA):
            fewer = trained[theirs] / trained[ours]
            claim = Claim(
                f"{ours} against {theirs}",
                f"{ours} trains {fewer:.1f} times fewer weights than {theirs}, and is within a point of its accuracy.",
                PAPER,
            )  # fmt: skip
            here = (
                f"MiniLM, {', '.join(budget.tasks)}, {budget.size}; rates {METHODS[ours][1]:g} and "
                f"{METHODS[theirs][1]:g}, tuned on 20news; {len(draws)} pairs of task and draw"
            )
            yield Row(claim, here, paired(accuracy[ours], accuracy[theirs]), "points", -MARGIN, "above", note)
    found = exact(trained[BOTTLENECK] / trained[SQUARE])
    note = (
        f"{trained[SQUARE]:,} against {trained[BOTTLENECK]:,}, heads not counted; what it costs is in the other rows."
    )
    yield Row(FEWER, "MiniLM, 12 adapters in 6 blocks", found, "times", 5.0, "above", note)


def timed(
    lab: Lab, what: str, claim: Claim, contestants: Callable[[], tuple[nn.Module, nn.Module]], repeat: int
) -> Row:
    """Return the row of how many times as long the second contestant takes, on 32 inputs."""

    def make() -> dict[str, list[float]]:
        x_BD = drawn(32, D)
        with torch.no_grad():
            ours, theirs = (lambda f=f: [f(x_BD) for _ in range(20)] for f in contestants())
            return {"ratios": in_turns(ours, theirs, repeat)}

    ratios = lab.run("time", what, 0, make)["ratios"]
    here = f"{what}; 32 inputs, {len(ratios)} rounds of 20 calls in turns, CPU seconds"
    note = "How many times as long the other takes; it depends on the machine."
    return Row(claim, here, geometric(ratios), "times", 1.0, "above", note)


def solved_head(lab: Lab, budget: Budget) -> Row:
    """Return the row of the time of a descent over that of the solution, by draw of the random features."""
    seeds = lab.seeds_or(3, 5)
    setting = f"{budget.features} features"
    runs = [
        lab.run("head", setting, seed, lambda s=seed: head_times(s, budget.features, budget.steps)) for seed in seeds
    ]
    ratios = [run["descent"] / run["solved"] for run in runs]
    accuracy = 100 * sum(run["accuracy"] for run in runs) / len(runs)
    reached = sum(run["reached"] for run in runs)
    note = f"The solved map is right on {accuracy:.1f} %; descent came near enough in {reached} of {len(runs)} draws."
    here = (
        f"digits 8 x 8, {setting} (ReLU), squared error with lambda by leave-one-out; AdamW on full batches, at most "
        f"{budget.steps} steps at the best of three rates; {len(runs)} draws of the features"
    )
    return Row(SOLVED, here, geometric(ratios), "times", 1.0, "above", note)


def converging(lab: Lab) -> Row:
    """Return the row of the error with 1024 draws over that with 256, by seed of the draws."""
    seeds = lab.seeds_or(10, 30)
    runs = [
        lab.run("estimate", "sin", seed, lambda s=seed: {str(m): estimate_error(m, s) for m in (256, 1024)})
        for seed in seeds
    ]
    ratios = [run["1024"] / run["256"] for run in runs]
    here = f"sin(W x) for weights (64, 32) and 200 inputs of norm 1/2, no training; {len(runs)} draws of the features"
    return Row(NEARER, here, geometric(ratios), "times", 0.5, "below", "Theory says a quarter.")
