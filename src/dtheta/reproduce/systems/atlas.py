"""aTLAS: is a learned coefficient for every delta and tensor better than one factor for all?

    addition    one encoder for all tasks: one factor searched (task arithmetic), one learned coefficient a delta, one a
                delta and tensor (aTLAS)
    negation    forget a task, keep a control at 95 %: the factor searched downwards from 0, or learned by tensor
    few-shot    a task that no delta was trained on, from a few texts a class, by the deltas of the other tasks

Heads are frozen (reproduce/experiments/experts.py). Coefficients are learned on some texts of a task, the epoch and
every searched factor are chosen on others, and what is shown is accuracy on test texts that chose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dtheta._version import __version__
from dtheta.compose.atlas import learn_coefficients
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.compose import compose
from dtheta.compose.gradient import composed
from dtheta.compose.negation import learn_negation
from dtheta.compose.report import Report
from dtheta.compose.ties import ties
from dtheta.compress.compeft import compress
from dtheta.core.apply import applied
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator
from dtheta.models.multitask import MultiTask
from dtheta.reproduce.claim import Claim, Row, exact, paired
from dtheta.reproduce.experiments.experts import Base, Budget, Expert, accuracy, expert
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("aTLAS", "Zhang et al. 2024, arXiv 2407.02880", "compose.md")
DENSITY = 0.1  # of what is compressed, and of what TIES keeps of what is not
KEEP = 0.95
CLIP = "CLIP ViT-B/32"

ADDS = Claim(
    "coefficients by tensor beat one factor",
    "One encoder for all tasks is more accurate with a coefficient a delta and tensor than with one searched factor.",
    f"{CLIP}, 8 image sets: 85.0 against 70.1 %",
)
ANISOTROPIC = Claim(
    "by tensor, not learned as such",
    "It is more accurate, too, than with one learned coefficient a delta.",
    f"{CLIP}, 8 image sets: 85.0 against 70.5 %",
)
FORGETS = Claim(
    "negation forgets",
    "Learned negative coefficients lower the target's accuracy by more than they lower the control's.",
    f"{CLIP}, 8 image sets: target 48.1 to 18.8 %, control 63.4 to 61.2 %",
)
FURTHER = Claim(
    "it forgets more selectively",
    "Beyond what the control loses, learned coefficients take more of the target than one searched factor does.",
    f"{CLIP}: target 18.8 against 23.2 %, control 61.2 against 60.7 %",
)
FEW = Claim(
    "few shots from other tasks",
    "Deltas of other tasks, with coefficients from 16 texts a class, beat the base on a task of their own.",
    f"{CLIP}, 22 image sets: 72.9 against 60.4 %",
)
GRADIENT = Claim(
    "gradient by inner products",
    "The gradient by all coefficients equals autograd's through the composed weights, to 1e-5 of its largest entry.",
    "By definition; the released code builds the sum inside the graph",
)
BUDGET = Claim(
    "selection by gradient",
    "With one or two deltas a tensor, choosing them by the gradient beats choosing them at random.",
    f"{CLIP}, 21 deltas, 16 shots: 68.3 against 64.7 % with one",
)


@dataclass(frozen=True)
class Size:
    """What composes what, on how much.

    Attributes:
        base: The encoder.
        tasks: Whose experts there are.
        budget: Of an expert.
        grid: Factors that are searched, ascending from 0.
        addition: Changes of the recipe "addition"; of the paper's with fewer and so larger steps.
        negation: The same for negation.
        few_shot: Changes of the recipe "few-shot".
        shots: Texts a class.
    """

    base: Base = field(default_factory=Base)
    tasks: tuple[str, ...] = ("bbc", "r8", "sentiment", "tweets", "20news")
    budget: Budget = field(default_factory=Budget)
    grid: tuple[float, ...] = tuple(i / 10 for i in range(11))
    addition: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 6, "lr": 1e-1, "schedule": "cosine"})
    negation: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 8, "lr": 2e-2})
    few_shot: Mapping[str, Any] = field(default_factory=dict)
    shots: tuple[int, ...] = (16,)

    def control(self, target: str) -> str:
        """Return the task that is kept while another is forgotten: 20 Newsgroups where it is there, else R8."""
        first, second = ("20news", "r8") if "20news" in self.tasks else ("r8", "bbc")
        return second if target == first else first


FAST = Size(
    Base("minilm", 2), ("bbc", "r8", "sentiment"), Budget(40, 8, 16, 8, 64, 64, 200), (0.0, 0.25, 0.5, 0.75, 1.0),
    {"epochs": 3, "lr": 1e-1, "schedule": "cosine"}, {"epochs": 4, "lr": 4e-2}, {"epochs": 3, "shortest": 4},
)  # fmt: skip


def experts(size: Size, kind: str, seed: int, folder: Path | None) -> dict[str, Expert]:
    """Return the experts of all tasks, trained once."""
    return {task: expert(size.base, task, kind, seed, folder, size.budget) for task in size.tasks}


def scores(found: Sequence[Expert], delta: Delta | None, on: str = "test") -> list[float]:
    """Return the accuracy on each task with a delta on the encoder that they share."""
    if delta is None:
        return [accuracy(e.net, getattr(e, on)) for e in found]
    with applied(MultiTask([e.net for e in found]), delta):
        return scores(found, None, on)


def relative(values: Sequence[float], best: Sequence[float]) -> float:
    """Return the mean over tasks of accuracy as a share of the expert's, which aTLAS judges epochs by."""
    return sum(v / b for v, b in zip(values, best, strict=True)) / len(best)


def addition(size: Size, by_task: Mapping[str, Expert], seed: int, *, merges: bool = False) -> dict[str, Any]:
    """Compose one encoder for all tasks in every way, and test it; ``merges`` adds TIES and compressed deltas."""
    found = list(by_task.values())
    net, deltas = MultiTask([e.net for e in found]), [e.delta for e in found]
    judge = _judge(found)
    forms: dict[str, Delta | None] = {"base": None}
    chosen: dict[str, Any] = {}
    sums: dict[str, Callable[[float], Delta]] = {"searched": lambda factor: compose(deltas, factor)}
    if merges:
        packed = [compress(delta, DENSITY, of="balanced") for delta in deltas]
        sums["searched, compressed"] = lambda factor: compose(packed, factor)
        sums["TIES"] = lambda factor: ties(deltas, DENSITY, factor=factor)
        sums["TIES, compressed"] = lambda factor: ties(packed, 1.0, factor=factor)
    for name, make in sums.items():
        forms[name], chosen[name] = _searched(make, judge, size.grid)
    losses = {e.task: _loss_of(t) for t, e in enumerate(found)}
    for name, isotropic in (("learned, isotropic", True), ("aTLAS", False)):
        batches = {e.task: e.batches(seed) for e in found}
        learned = learn_coefficients(
            net, deltas, batches, losses, metric=lambda shown: judge(None),
            isotropic=isotropic, seed=seed, recipe="addition", **size.addition,
        )  # fmt: skip
        forms[name], chosen[name] = compose(deltas, learned), _report(learned).best
    tested = {name: scores(found, delta) for name, delta in forms.items()}
    tested["own"] = [scores([e], e.delta)[0] for e in found]
    return {"test": tested, "chosen": chosen}


def compressed_sums(size: Size, by_task: Mapping[str, Expert], densities: Sequence[float]) -> dict[str, Any]:
    """Sum deltas as they are, and compressed to each of some densities, by the best factor for each, and test it."""
    found = list(by_task.values())
    deltas, judge = [e.delta for e in found], _judge(found)
    summed = {"searched": deltas}
    summed |= {f"{density:g}": [compress(delta, density, of="balanced") for delta in deltas] for density in densities}
    tested, chosen = {}, {}
    for name, parts in summed.items():
        delta, chosen[name] = _searched(lambda factor, parts=parts: compose(parts, factor), judge, size.grid)
        tested[name] = scores(found, delta)
    return {"test": tested, "chosen": chosen}


def _judge(found: Sequence[Expert]) -> Callable[[Delta | None], float]:
    """Return what epochs and factors are chosen by: accuracy with a delta as a share of the experts' own."""
    best = [scores([e], e.delta, "validate")[0] for e in found]
    return lambda delta: relative(scores(found, delta, "validate"), best)


def _loss_of(task: int) -> Callable[..., Any]:
    return lambda net, batch: net(task, **batch).loss


def _loss(net: Any, batch: Any) -> Any:
    return net(**batch).loss


def _searched(
    make: Callable[[float], Delta], judge: Callable[[Delta], float], grid: Sequence[float]
) -> tuple[Delta, float]:
    """Return the best of the grid by the judge, and its factor; ties go to the smaller one."""
    found = max(grid, key=lambda factor: (judge(make(factor)), -factor))
    return make(found), found


def negation(size: Size, found: Mapping[str, Expert], seed: int, target: str) -> dict[str, Any]:
    """Forget a task with its own delta, and test it and the control."""
    control, aim = found[size.control(target)], found[target]
    floor = KEEP * scores([control], None, "validate")[0]
    best, lowest = 0.0, scores([aim], None, "validate")[0]
    for factor in size.grid[1:]:  # as long as the control holds, like the rule of the learned one
        moved = compose([aim.delta], -factor)
        if scores([control], moved, "validate")[0] < floor:
            break
        if (now := scores([aim], moved, "validate")[0]) < lowest:
            best, lowest = factor, now
    net = MultiTask([aim.net, control.net])
    learned = learn_negation(
        net, [aim.delta], _tagged(aim, 0, seed), _tagged(control, 1, seed), lambda n, b: n(b[0], **b[1]).loss,
        target_metric=lambda n: accuracy(n.classifiers[0], aim.validate),
        control_metric=lambda n: accuracy(n.classifiers[1], control.validate), keep=KEEP, seed=seed, recipe="addition",
        **size.negation,
    )  # fmt: skip
    forms = {"base": None, "searched": compose([aim.delta], -best), "learned": compose([aim.delta], learned)}
    tested = {name: [scores([e], delta)[0] for e in (aim, control)] for name, delta in forms.items()}
    return {"test": tested, "chosen": {"searched": -best, "learned": _report(learned).best}}


def _tagged(one: Expert, task: int, seed: int) -> list[Any]:
    return [(task, batch) for batch in one.batches(seed)]


def few_shot(size: Size, found: Mapping[str, Expert], seed: int, target: str, shots: int) -> dict[str, Any]:
    """Compose for a task from a few of its texts and the deltas of the other tasks."""
    aim, deltas = found[target], [e.delta for e in found.values() if e.task != target]
    learned = learn_coefficients(
        aim.net, deltas, aim.few(shots, seed), _loss, recipe="few-shot", seed=seed,
        metric=lambda net: accuracy(net, aim.validate), **size.few_shot,
    )  # fmt: skip
    forms = {"zero-shot": None, "aTLAS": compose(deltas, learned), "own": aim.delta}
    tested = {name: scores([aim], delta)[0] for name, delta in forms.items()}
    report = _report(learned)
    kept = [report.epochs[0].scores["score"], report.epochs[report.best].scores["score"]]
    return {"test": tested, "chosen": {"epoch": report.best}, "validation": kept}


def _report(learned: Coefficients) -> Report:
    assert learned.report is not None, "learned coefficients tell how it went"
    return learned.report


def gradient_error(deltas: int = 4, width: int = 24, seed: int = 0) -> float:
    """Return the largest error of our gradient by coefficients against autograd in float64, over the largest entry."""
    draw = generator(seed, "reproduce/atlas")
    net = nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(generator=draw).mul_(0.3)
    weights = {name: p.detach() for name, p in net.named_parameters()}
    vectors = [{name: 0.1 * torch.randn(p.shape, generator=draw) for name, p in weights.items()} for _ in range(deltas)]
    c = 0.3 * torch.randn(deltas, len(weights), generator=draw, dtype=torch.float64)
    x = torch.randn(32, 12, generator=draw)

    leaf = c.clone().requires_grad_()
    moved = {
        name: base.double() + sum(leaf[i, j] * vector[name].double() for i, vector in enumerate(vectors))
        for j, (name, base) in enumerate(weights.items())
    }
    outputs = torch.func.functional_call(net, moved, (x.double(),))
    wanted = torch.autograd.grad(outputs.square().mean(), leaf)[0]

    made = [Delta({name: Dense(v) for name, v in vector.items()}) for vector in vectors]
    with composed(net, made, list(weights), torch.ones(deltas, len(weights), dtype=torch.bool)) as ours:
        ours.clear()
        ours.show(c[..., None])
        ours.backward(ours.model(x).square().mean())
        found: Tensor = ours.gradient[..., 0].clone()
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments, and yield a row a claim."""
    size, seeds = lab.sized(FAST, Size()), lab.seeds_or(1, 4)
    folder = None if lab.folder is None else lab.folder / f"atlas_experts_{lab.size}-{__version__}"  # as runs are kept

    @cache
    def found(seed: int) -> dict[str, Expert]:
        return experts(size, "Full", seed, folder)

    sums, forgot, few = [], [], []
    for seed in seeds:  # all parts of a seed first, so that its experts are made once
        sums.append(lab.run("addition", "Full", seed, lambda s=seed: addition(size, found(s), s)))
        for task in size.tasks:
            forgot.append(lab.run("negation", task, seed, lambda s=seed, t=task: negation(size, found(s), s, t)))
            for shots in size.shots:
                make = lambda s=seed, t=task, k=shots: few_shot(size, found(s), s, t, k)  # noqa: E731
                few.append(lab.run("few-shot", f"{task} {shots}", seed, make))
        found.cache_clear()
    here = f"{size.base}, {', '.join(size.tasks)}, {len(seeds)} seed(s), experts in full, {size.budget.steps} steps"
    yield from _addition_rows(sums, here)
    controls = ", ".join(dict.fromkeys(map(size.control, size.tasks)))
    yield from _negation_rows(forgot, f"{here}; kept at {KEEP:.0%} of its accuracy: {controls}")
    gaps = [[100 * run["test"][name] for run in few] for name in ("aTLAS", "zero-shot", "own")]
    note = f"{_mean(gaps[0]):.1f} against {_mean(gaps[1]):.1f} %; its own expert {_mean(gaps[2]):.1f} %."
    yield Row(FEW, here, paired(gaps[0], gaps[1]), "points", note=note)
    error = lab.run("gradient", "MLP", 0, lambda: {"error": gradient_error()})["error"]
    yield Row(GRADIENT, "MLP of 3 layers, 4 dense deltas", exact(error), "of the largest entry", 1e-5, "below")
    yield Row(BUDGET, note="It takes a pool of many deltas; the packages carry five tasks.")


def _addition_rows(runs: Sequence[Mapping[str, Any]], here: str) -> Iterator[Row]:
    points = {name: [100 * value for run in runs for value in run["test"][name]] for name in runs[0]["test"]}
    note = "; ".join(f"{name} {_mean(values):.1f} %" for name, values in points.items()) + ". Paired by task and seed."
    yield Row(ADDS, here, paired(points["aTLAS"], points["searched"]), "points", note=note)
    yield Row(ANISOTROPIC, here, paired(points["aTLAS"], points["learned, isotropic"]), "points")


def _negation_rows(runs: Sequence[Mapping[str, Any]], here: str) -> Iterator[Row]:
    def lost(name: str, which: int) -> list[float]:
        return [100 * (run["test"]["base"][which] - run["test"][name][which]) for run in runs]

    def selective(name: str) -> list[float]:
        return [a - b for a, b in zip(lost(name, 0), lost(name, 1), strict=True)]

    told = "; ".join(f"{name} {_mean(lost(name, 0)):.1f} of the target, {_mean(lost(name, 1)):.1f} of the control"
                     for name in ("learned", "searched"))  # fmt: skip
    yield Row(FORGETS, here, paired(lost("learned", 0), lost("learned", 1)), "points", note=f"Points lost: {told}.")
    yield Row(FURTHER, here, paired(selective("learned"), selective("searched")), "points")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
