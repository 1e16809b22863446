"""Made-up but lifelike results: three tasks, three methods, five seeds, MiniLM's 36 attention and MLP matrices."""

from __future__ import annotations

import math
import random

from dtheta.report.results import AdaptResults, Curve, LayerChange, MethodResult, NextStep, TaskResult
from dtheta.score import Interval, mean_interval, wilson

ROLES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
LAYERS = [f"encoder.layer.{block}.{role}.weight" for block in range(6) for role in ROLES]
SPEED = {"LoRA": 0.018, "PiSSA": 0.035, "SORSA": 0.03}
TURN = {"LoRA": 0.9, "PiSSA": 0.45, "SORSA": 0.35}


def loss_curve(method: str, start: float, steps: int, seed: int) -> Curve:
    """An exponential decay with minibatch noise."""
    draw = random.Random(f"{method} {start} {seed}")
    floor = 0.08 + 0.01 * draw.random()
    values = ((s, floor + (start - floor) * math.exp(-SPEED.get(method, 0.02) * s)) for s in range(steps))
    return tuple((float(s + 1), v * math.exp(0.22 * draw.gauss(0, 1))) for s, v in values)


def orthogonality(gamma: float, steps: int, seed: int) -> Curve:
    """Distance from orthonormal that grows and saturates."""
    draw = random.Random(f"{gamma} {seed}")
    return tuple(
        (float(s), gamma * (1 - math.exp(-s / 60)) * (1 + 0.05 * draw.random())) for s in range(0, steps + 1, 10)
    )


def layers(method: str, task: str) -> tuple[LayerChange, ...]:
    """Changes that grow with depth."""
    draw, found = random.Random(method + task), []
    for i, name in enumerate(LAYERS):
        depth = 0.4 + 0.6 * (i // len(ROLES)) / 5
        turn = TURN.get(method, 0.5) * depth * (0.5 + draw.random()) * (1.3 if "dense" in name else 1.0)
        found.append(LayerChange(name, 0.012 * depth * (0.3 + 1.4 * draw.random()), 0.3 * turn, 0.06 * turn**1.5))
    return tuple(found)


def method_result(
    name: str, task: str, start: float, accuracy: float, frozen: float, seeds: int, steps: int
) -> MethodResult:
    """A method whose accuracy scatters by 0.4 points over seeds."""
    draw = random.Random(name + task)
    each = tuple(accuracy + 0.004 * draw.gauss(0, 1) for _ in range(seeds))
    gains = [value - frozen + 0.002 * draw.gauss(0, 1) for value in each]
    several = seeds > 1
    return MethodResult(
        name=name,
        score=mean_interval(each) if several else wilson(round(600 * accuracy), 600),
        losses=tuple(loss_curve(name, start, steps, seed) for seed in range(seeds)),
        parameters=147_456 if name == "LoRA" else 149_760,
        file_bytes=594_112 if name == "LoRA" else 1_186_400,
        seconds=11.3 + draw.random(),
        scores=each if several else (),
        gain=mean_interval(gains) if several else None,
        orthogonality=tuple(orthogonality(0.06, steps, seed) for seed in range(seeds)) if name == "SORSA" else (),
        layers=layers(name, task),
        settings={"rank": "16", "rate": "1e-3" if name == "LoRA" else "5e-4", "steps": str(steps)},
    )


def results(seeds: int = 5, steps: int = 120) -> AdaptResults:
    """The whole made-up job."""
    tasks = []
    for name, classes, frozen, gained in (
        ("BBC", 5, 0.953, 0.019),
        ("R8", 8, 0.924, 0.038),
        ("sentiment", 2, 0.844, 0.004),
    ):
        accuracies = {"LoRA": frozen + 0.6 * gained, "PiSSA": frozen + gained, "SORSA": frozen + 0.9 * gained}
        found = tuple(method_result(m, name, math.log(classes), a, frozen, seeds, steps) for m, a in accuracies.items())
        tasks.append(TaskResult(name, 1200, 600, wilson(round(600 * frozen), 600), found, classes))
    return AdaptResults(
        model="MiniLM",
        model_parameters=22_713_216,
        model_bytes=90_868_376,
        tasks=tuple(tasks),
        provenance={
            "dtheta": "0.1.0",
            "torch": "2.13.0",
            "Python": "3.11.7",
            "seeds": ", ".join(map(str, range(seeds))),
            "base": "all-MiniLM-L6-v2, 22,713,216 weights",
            "base digest": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "selection": "linear weights of attention and MLP blocks (36 matrices)",
            "command": "`dtheta demo --seeds 5`",
        },
        next_steps=(
            NextStep("Look inside a delta: method, base, norms, layer by layer.", "dtheta show runs/bbc-pissa.delta"),
            NextStep(
                "Adapt to your own labeled texts (CSV or JSONL with `text` and `label`).",
                "dtheta adapt minilm mine.csv --method pissa --rank 16",
            ),
            NextStep(
                "Add two deltas and see what remains of both.",
                "dtheta merge minilm runs/bbc-pissa.delta runs/r8-pissa.delta",
            ),
        ),
    )


def interval(estimate: float, half: float) -> Interval:
    """A symmetric interval."""
    return Interval(estimate, estimate - half, estimate + half)
