"""SNNK: what random-feature layers, bundles, solved heads and a block's own neurons cost and gain.

    latency    a layer 768 -> 3072: dense with GELU against SNNK with m draws of ReLU and of GELU features; parameters
    bundle     768 -> 3072 -> 768: two SNNK layers one after the other against their bundle, and the folded block
    head       SNNK features of MiniLM's embeddings of BBC articles: the head solved against trained by gradient descent
               (AdamW as `fit` runs it, full batches, the best of several rates) and by L-BFGS, to the same loss
    neurons    feed-forward blocks of MiniLM (384 -> 1536 -> 384), fitted on tokens of training texts and measured on
               those of test texts: some of their own neurons against random features of the same width, against own
               neurons drawn at random or chosen by QR with pivoting, and against low rank at no fewer parameters;
               latency against the block

Latency is CPU time on one thread. Errors are sum |y - y'|^2 / sum |y - mean y|^2 over the outputs of the block.

    python bench/snnk.py [--json] [--repeat 9] [--only latency|bundle|head|neurons] [--layers 0 2 5] [--texts 192]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import get_args

import torch
from _measure import Row, compare, cpu_seconds, interleaved, main
from _texts import unlabeled
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.mlps import find_mlps
from dtheta.core.seeds import generator
from dtheta.data.tasks import load_task
from dtheta.data.text import Texts
from dtheta.kernels.bundle import bundle, fold
from dtheta.kernels.closed_form import Loss, solve_head
from dtheta.kernels.feed_forward import FeedForward
from dtheta.kernels.fit_mlp import Calibration, FittedMLP, calibrate, fit_mlp, relative_error
from dtheta.kernels.mlp_inputs import mlp_inputs
from dtheta.kernels.neurons import OwnNeurons, choose_neurons
from dtheta.kernels.snnk import SNNKLayer
from dtheta.models.load import load_model, load_tokenizer
from dtheta.reproduce.experiments.solved_heads import descended, objective

D, HIDDEN = 768, 3072
BATCHES = (1, 32, 256)
DRAWS = (16, 64, 128, 256, 512)
WIDTHS = (96, 192, 384, 768)
PARTS = ("latency", "bundle", "head", "neurons")


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "bench/snnk"))


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def timed(contestants: dict[str, Callable[[Tensor], Tensor]], x: Tensor, repeat: int) -> dict[str, float]:
    """CPU seconds of one call each, from measurements of many calls."""
    with torch.no_grad():
        once = min(cpu_seconds(lambda f=f: f(x)) for f in contestants.values() for _ in range(3))
        calls = max(1, math.ceil(5e-3 / max(once, 1e-6)))

        def many(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
            return lambda: [function(x) for _ in range(calls)]

        found = interleaved({name: many(f) for name, f in contestants.items()}, repeat)
    return {name: seconds / calls for name, seconds in found.items()}


def latency(repeat: int) -> Iterator[Row]:
    """A dense layer and its nonlinearity against SNNK layers."""
    dense = nn.Linear(D, HIDDEN)
    layers = {(f, m): SNNKLayer.of(dense, f, m) for f in ("relu", "gelu") for m in DRAWS}
    for batch in BATCHES:
        x = draw(batch, D) / D**0.5
        contestants: dict[str, Callable[[Tensor], Tensor]] = {f"{f} {m}": layer for (f, m), layer in layers.items()}
        seconds = timed({"dense": lambda x: F.gelu(dense(x)), **contestants}, x, repeat)
        for (function, m), layer in layers.items():
            ours = 1e3 * seconds[f"{function} {m}"]
            name = f"768 -> 3072, {function} features, m={m}, batch {batch}"
            note = f"{layer.features.width} features; parameters {parameters(layer)} against {parameters(dense)}"
            yield compare(name, ours, 1e3 * seconds["dense"], "CPU ms", note=note)


def bundled(repeat: int) -> Iterator[Row]:
    """Two layers against their bundle, and an SNNK layer with a linear one against the folded block."""
    up, down = nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, D)
    for m in (64, 256):
        first, second = SNNKLayer.of(up, "relu", m), SNNKLayer.of(down, "relu", m, seed=1)
        apart, joined = nn.Sequential(first, second), bundle([first, second])
        half, folded = nn.Sequential(first, down), fold(first, down)
        for batch in BATCHES:
            x = draw(batch, D)
            with torch.no_grad():
                wanted = apart(x)
                off = float((joined(x) - wanted).abs().max() / wanted.abs().max())
            contestants = {"apart": apart, "joined": joined, "half": half, "folded": folded}
            seconds = timed({"dense": lambda x: down(F.gelu(up(x))), **contestants}, x, repeat)
            size = f"parameters {parameters(joined)} against {parameters(apart)}; differs by {off:.0e}"
            name = f"768 -> 3072 -> 768, m={m}, batch {batch}"
            yield compare(
                f"{name}: bundle of two layers",
                1e3 * seconds["joined"],
                1e3 * seconds["apart"],
                "CPU ms",
                goal=1.0,
                note=size,
            )
            size = f"parameters {parameters(folded)} against {parameters(half)}"
            yield compare(
                f"{name}: folded block", 1e3 * seconds["folded"], 1e3 * seconds["half"], "CPU ms", goal=1.0, note=size
            )
            size = f"parameters {parameters(folded)} against {parameters(up, down)}"
            yield compare(
                f"{name}: folded against dense", 1e3 * seconds["folded"], 1e3 * seconds["dense"], "CPU ms", note=size
            )


class Bbc:
    """BBC articles as MiniLM sees them."""

    def __init__(self, texts: int, length: int = 64) -> None:
        self.model, self.tokenizer = load_model("minilm"), load_tokenizer("minilm")
        self.task, self.texts, self.length = load_task("bbc"), texts, length

    def batches(self, texts: Texts, count: int) -> list[dict[str, Tensor]]:
        """Batches of 32 texts without labels."""
        return unlabeled(texts.texts[:count], self.tokenizer, 32, self.length)

    @torch.no_grad()
    def embeddings(self, texts: Texts, count: int) -> tuple[Tensor, Tensor]:
        """Mean-pooled vectors of unit length, and labels."""
        found = []
        for batch in self.batches(texts, count):
            hidden, mask = self.model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
            found.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
        return torch.cat(found), torch.tensor(texts.labels[:count])


def lbfgs(value: Callable[..., Tensor], shape: tuple[int, int], target: float, most: int) -> int | None:
    """Evaluations of L-BFGS until the loss is at ``target``."""
    weight, bias = torch.zeros(shape, requires_grad=True), torch.zeros(shape[0], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=20, tolerance_grad=0, line_search_fn="strong_wolfe")
    seen: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        now = value(weight, bias)
        now.backward()
        seen.append(now.item())
        return now

    while len(seen) < most and min(seen, default=math.inf) > target:
        optimizer.step(closure)  # type: ignore[arg-type]
    return len(seen) if min(seen) <= target else None


def heads(bbc: Bbc, repeat: int) -> Iterator[Row]:
    """Solved heads against trained ones, to within a thousandth of the optimum."""
    x, labels = bbc.embeddings(bbc.task.train, 1000)
    new, truth = bbc.embeddings(bbc.task.test, 400)
    classes = len(bbc.task.classes)
    Y = F.one_hot(labels, classes).float()
    for m in (512,):
        features = SNNKLayer.of(nn.Linear(x.shape[1], 1), "relu", m, projection="orthogonal")
        with torch.no_grad():
            P, unseen = features.phi(x), features.phi(new)
        for loss in get_args(Loss):
            chosen = solve_head(P, labels, loss)
            value = objective(P, Y, labels, loss, chosen.ridge)
            target = 1.001 * float(value(chosen.weight.float(), chosen.bias.float()))
            shape = (classes, P.shape[1])
            best: tuple[float, float, int] | None = None
            for lr in (1e-2, 3e-2, 1e-1):
                steps: list[int | None] = []
                taken = cpu_seconds(
                    lambda lr=lr, value=value: steps.append(descended(value, shape, target, lr, 1500))  # noqa: B023
                )
                if steps[0] is not None and (best is None or taken < best[0]):
                    best = (taken, lr, steps[0])
            evaluations: list[int | None] = []
            contestants = {
                "ours": lambda: solve_head(P, labels, loss, chosen.ridge),  # noqa: B023
                "lbfgs": lambda: evaluations.append(lbfgs(value, shape, target, 5000)),  # noqa: B023
            }
            seconds = interleaved(contestants, repeat)
            accuracy = float((chosen(unseen).argmax(1) == truth).float().mean())
            name = f"bbc, {len(x)} articles, {P.shape[1]} features, {loss}"
            goal = 10.0 if loss == "mse" else None
            note = f"lambda {chosen.ridge:.2g}; test accuracy {accuracy:.3f}; "
            if best is None:
                note += "AdamW: not within 0.1 % of the optimum after 1500 steps at any of three rates"
                yield compare(f"{name}: against AdamW", seconds["ours"], None, "CPU s", goal=None, note=note)
            else:
                note += f"AdamW, {best[2]} steps at rate {best[1]:g}, to within 0.1 % of the optimum"
                yield compare(f"{name}: against AdamW", seconds["ours"], best[0], "CPU s", goal=goal, note=note)
            note = f"{evaluations[-1]} evaluations to within 0.1 % of the optimum"
            yield compare(f"{name}: against L-BFGS", seconds["ours"], seconds["lbfgs"], "CPU s", note=note)
        full = cpu_seconds(lambda: solve_head(P, labels, "mse"))  # noqa: B023
        once = cpu_seconds(lambda: solve_head(P, labels, "mse", 1.0))  # noqa: B023
        note = "25 lambdas by exact leave-one-out against a solution for one"
        yield compare(f"bbc, {P.shape[1]} features, mse: choosing lambda too", full, once, "CPU s", note=note)


def neurons(bbc: Bbc, layers: list[int], repeat: int) -> Iterator[Row]:
    """Own neurons against random features and low rank, block by block."""
    mlps = find_mlps(bbc.model)
    for i in layers:
        mlp = mlps[i]
        block = FeedForward.of(mlp.up, mlp.down, mlp.activation, mlp.gate)
        train, test = (
            torch.cat(list(mlp_inputs(bbc.model, mlp, bbc.batches(texts, count))))
            for texts, count in ((bbc.task.train, bbc.texts), (bbc.task.test, 96))
        )
        sums = calibrate(block, [train])
        linear = fit_mlp(block, sums, 1, held_out=[test])
        yield compare(
            f"MiniLM block {i}: one neuron and a linear path", linear.error or 0.0, 1.0, "relative",
            note=f"{len(train)} tokens to fit on, {len(test)} to measure on; against the mean",
        )  # fmt: skip
        for width in WIDTHS:
            name = f"MiniLM block {i}, width {width}"
            yield from _errors(block, sums, train, test, name, width)
            if i == layers[0]:  # the others have the same shapes
                yield from _latencies(block, sums, test, name, width, repeat)


def _errors(block: FeedForward, sums: Calibration, train: Tensor, test: Tensor, name: str, width: int) -> Iterator[Row]:
    own = fit_mlp(block, sums, width, held_out=[test])
    random = fit_mlp(block, [train], width, variant="random", held_out=[test])
    drawn = fit_mlp(block, sums, width, variant="own-random", held_out=[test])
    yield compare(f"{name}: pivoted", own.error or 0.0, _pivoted(block, sums, test, width), "relative", goal=1.0)
    note = f"parameters {own.parameters} of {block.parameters}; random {random.parameters} and a seed"
    yield _error(f"{name}: random features", own, random, 1.0, note)
    yield _error(f"{name}: own neurons drawn at random", own, drawn, 1.0, note)
    for what, fitted in (
        ("", own),
        (" without a linear path", fit_mlp(block, sums, width, skip=False, held_out=[test])),
    ):
        rank = min(block.inputs, math.ceil(fitted.parameters / (2 * (block.inputs + block.hidden_width))))
        cut = fit_mlp(block, sums, rank, variant="low-rank", held_out=[test])
        note = f"rank {rank}, {cut.parameters} parameters against {fitted.parameters}"
        yield _error(f"{name}{what}: low rank", fitted, cut, 1.0, note)


def _pivoted(block: FeedForward, sums: Calibration, test: Tensor, width: int) -> float:
    """Error with neurons chosen by QR with pivoting."""
    h = block.hidden_width
    chosen = choose_neurons(sums.joint, h, width, pivot="pivoted")
    fit = sums.joint.take(torch.cat([chosen, torch.arange(h, h + block.inputs)])).solve()
    return relative_error(OwnNeurons(block, chosen, fit, skip=True), block, [test])


def _error(name: str, ours: FittedMLP, peer: FittedMLP, goal: float, note: str) -> Row:
    assert ours.error is not None and peer.error is not None
    return compare(name, ours.error, peer.error, "relative", goal=goal, note=note)


def _latencies(
    block: FeedForward, sums: Calibration, test: Tensor, name: str, width: int, repeat: int
) -> Iterator[Row]:
    own = fit_mlp(block, sums, width)
    for batch in BATCHES:
        seconds = timed({"ours": own.module, "block": block}, test[:batch], repeat)
        note = f"parameters {own.parameters} of {block.parameters}"
        yield compare(f"{name}: batch {batch}", 1e3 * seconds["ours"], 1e3 * seconds["block"], "CPU ms", note=note)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    wanted = PARTS if arguments.only is None else (arguments.only,)
    if "latency" in wanted:
        yield from latency(arguments.repeat)
    if "bundle" in wanted:
        yield from bundled(arguments.repeat)
    bbc = Bbc(arguments.texts) if {"head", "neurons"} & set(wanted) else None
    if bbc is not None and "head" in wanted:
        yield from heads(bbc, arguments.repeat)
    if bbc is not None and "neurons" in wanted:
        yield from neurons(bbc, arguments.layers, arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--only", choices=PARTS, help="one part only")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 5], help="blocks of MiniLM, default 0 2 5")
    parser.add_argument("--texts", type=int, default=192, help="training texts to fit blocks on, default 192")


if __name__ == "__main__":
    main("SNNK", measure, repeat=9, packages=("torch", "transformers"), options=options)
