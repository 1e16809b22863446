"""aTLAS: our gradients by inner products against the official formulation, a sum of n products a block in the graph.

    coefficients   theta of all blocks, and the gradient by all coefficients from given gradients of the weights
    step           the same with the model's own forward and backward pass; limit: these alone, with a fixed theta
    gradient       largest error over the largest entry, against the sum in float64
    peak           memory at most 2 theta + store; n = 8

The peer holds vectors as the released code does, dense float16, with the loss scaled as much as float16 gradients bear;
dense float32, and low-rank factors multiplied in the graph, are shown beside it. Both sides have the same vectors: 20 %
of the entries, their signs and one scale a tensor; or normal numbers; or factors of rank 16. Both freeze the base. Our
dense store is float32, since a change holds no float16.

Memory is what torch's allocator gave out, from the profiler's events (each with its size), plus what tracemalloc saw
NumPy take; its peak over one step, from before the first buffer is made. Resident before: the base and the store.

    python bench/atlas.py [--json] [--repeat 5] [--quick] [--only mlp|minilm]
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from _measure import Row, compare, interleaved, main
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dtheta.compose.gradient import Composition, composed
from dtheta.core.change import Change, Dense, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.seeds import generator
from dtheta.core.ternary import ternary

N, RANK, DENSITY = 8, 16, 0.2
Store = list[dict[str, Any]]


@dataclass(eq=False)
class Problem:
    """A model, a batch, and n task vectors of all its parameters in every form."""

    name: str
    model: nn.Module
    batch: Any
    parameters: dict[str, Tensor] = field(init=False)
    coefficients: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = {n: p.detach() for n, p in self.model.named_parameters()}
        shape = (N, len(self.parameters))
        self.coefficients = 0.1 * torch.randn(shape, generator=generator(0, "values"), dtype=torch.float64)

    @property
    def theta(self) -> int:
        """Bytes of all parameters."""
        return sum(p.nbytes for p in self.parameters.values())

    def loss(self, model: Callable[..., Any]) -> Tensor:
        """Return a loss that every parameter has a part in."""
        output = model(**self.batch) if isinstance(self.batch, dict) else model(self.batch)
        hidden = getattr(output, "last_hidden_state", output).square().mean()
        return hidden + output.pooler_output.mean() if hasattr(output, "pooler_output") else hidden


def mlp() -> Problem:
    """Twenty linear layers of 1024: 21 M parameters."""
    torch.manual_seed(0)
    layers = [part for _ in range(20) for part in (nn.Linear(1024, 1024), nn.GELU())]
    return Problem("MLP 20 x 1024", nn.Sequential(*layers), torch.randn(16, 1024))


def minilm() -> Problem:
    """MiniLM, 22.7 M parameters in 103 tensors, half of them the embedding of words; 4 texts of 32 tokens."""
    from dtheta.models.load import load_model

    ids = torch.randint(1000, 20_000, (4, 32), generator=generator(0, "ids"))
    return Problem("MiniLM", load_model("minilm"), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def vector(kind: str, name: str, like: Tensor, i: int) -> Change:
    """Return one task vector of one parameter."""
    draw = generator(i, f"vector/{name}")
    if kind == "low-rank" and like.ndim == 2:
        m, n = matrix_shape(like.shape)
        return LowRank(1e-2 * torch.randn(m, RANK, generator=draw), 1e-2 * torch.randn(RANK, n, generator=draw))
    if kind != "ternary":
        return Dense((1e-3 * torch.randn(like.shape, generator=draw)).half())  # the same numbers on both sides
    chance = torch.rand(like.shape, generator=draw)
    signs = (chance < DENSITY / 2).to(torch.int8) - (chance > 1 - DENSITY / 2).to(torch.int8)
    return ternary(Planes.from_signs(signs), torch.tensor(1e-3).half(), tuple(like.shape))


def deltas(problem: Problem, kind: str) -> list[Delta]:
    """Return the n task vectors."""
    return [Delta({n: vector(kind, n, p, i) for n, p in problem.parameters.items()}) for i in range(N)]


def official_store(found: list[Delta], dtype: torch.dtype) -> Store:
    """Return the vectors as the peer holds them: dense, or the factors of those that have some."""

    def held(change: Change) -> Any:
        factors = change.factors()
        return change.dense().to(dtype) if factors is None else tuple(f.to(dtype) for f in factors)

    return [{n: held(c) for n, c in d.changes.items()} for d in found]


def official_sum(problem: Problem, store: Store, c: Tensor) -> dict[str, Tensor]:
    """Build theta inside the graph: for each block the products of vectors and coefficients, added up."""
    weights = {}
    for j, (name, base) in enumerate(problem.parameters.items()):
        total = base
        for i, vectors in enumerate(store):
            tau = vectors[name]
            total = total + c[i, j] * (tau[0] @ tau[1] if isinstance(tau, tuple) else tau)
        weights[name] = total
    return weights


def official_step(problem: Problem, store: Store, scale: float = 1.0) -> Tensor:
    """Return the gradient by the coefficients, as the released code takes it; ``scale`` is that of the loss."""
    c = problem.coefficients.float().requires_grad_()
    weights = official_sum(problem, store, c)

    def model(*args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(problem.model, weights, args, kwargs)

    return torch.autograd.grad(scale * problem.loss(model), c)[0] / scale


def loss_scale(problem: Problem, store: Store) -> float:
    """Return the largest power of two with which the gradient stays finite, as a gradient scaler finds it."""
    scale = 2.0**40
    while not bool(torch.isfinite(official_step(problem, store, scale)).all()):
        scale /= 2.0
    return scale


def official_alone(problem: Problem, store: Store, gradients: Mapping[str, Tensor]) -> Tensor:
    """Do it without the model, block by block."""
    c = problem.coefficients.float().requires_grad_()
    weights = official_sum(problem, store, c)
    return torch.autograd.grad(list(weights.values()), c, list(gradients.values()))[0]


def our_step(problem: Problem, composition: Composition) -> Tensor:
    """Return the gradient by the coefficients, our way."""
    composition.clear()
    composition.show(problem.coefficients[..., None])
    composition.backward(problem.loss(composition.model))
    return composition.gradient[..., 0].clone()


def our_alone(problem: Problem, composition: Composition, gradients: Mapping[str, Tensor]) -> None:
    """Do it without the model: compose every block, and take products with given gradients."""
    composition.show(problem.coefficients[..., None])
    for space, gradient in zip(composition._subspaces, gradients.values(), strict=True):
        space.up(gradient)


def plain_step(problem: Problem) -> None:
    """Run the model forward and backward to its weights."""
    weights = {n: p.requires_grad_() for n, p in problem.parameters.items()}
    value = problem.loss(lambda *a, **k: torch.func.functional_call(problem.model, weights, a, k))
    torch.autograd.grad(value, list(weights.values()))
    for p in weights.values():
        p.requires_grad_(False)


def peak(run: Callable[[], Any]) -> int:
    """Return the largest number of bytes held at once by what ``run`` allocates."""
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    numpy_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with_sizes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = torch.tensor([0] + [e.nbytes() for e in sorted(with_sizes, key=lambda e: e.start_ns())]).cumsum(0)
    return int(held.max()) + numpy_peak


def store_bytes(store: Store) -> int:
    """Return the bytes of the peer's store."""
    return sum(t.nbytes for v in store for tau in v.values() for t in (tau if isinstance(tau, tuple) else (tau,)))


def entered(problem: Problem, found: list[Delta]) -> Any:
    """Open our composition of all blocks."""
    every = torch.ones(N, len(problem.parameters), dtype=torch.bool)
    return composed(problem.model, found, list(problem.parameters), every)


def scenario(problem: Problem, kind: str, peers: Mapping[str, torch.dtype], repeat: int) -> Iterator[Row]:
    """Compare one form of ours with the peers on the same vectors."""
    found = deltas(problem, kind)
    stores = {name: official_store(found, dtype) for name, dtype in peers.items()}
    gradients = {n: torch.randn(p.shape, generator=generator(0, n)) for n, p in problem.parameters.items()}
    results: dict[str, Tensor] = {}
    with entered(problem, found) as ours:
        runs: dict[str, Callable[[], Any]] = {"ours": lambda: results.update(ours=our_step(problem, ours))}
        runs["ours alone"] = lambda: our_alone(problem, ours, gradients)
        runs["plain"] = lambda: plain_step(problem)
        for name, store in stores.items():
            k = loss_scale(problem, store) if name == "float16" else 1.0
            runs[name] = lambda n=name, s=store, k=k: results.update({n: official_step(problem, s, k)})
            runs[f"{name} alone"] = lambda s=store: official_alone(problem, s, gradients)
        seconds = interleaved(runs, repeat)
    title = f"{problem.name}, {kind}"
    for name in stores:
        goal = 5.0 if name == "float16" else None
        yield compare(f"{title}: step, peer {name}", seconds["ours"], seconds[name], "CPU s", goal=goal,
                      limit=seconds["plain"])  # fmt: skip
        yield compare(f"{title}: coefficients, peer {name}", seconds["ours alone"], seconds[f"{name} alone"], "CPU s",
                      goal=goal)  # fmt: skip
    yield from exactness(title, problem, found, results)
    yield from memory(title, problem, found, stores)


def exactness(title: str, problem: Problem, found: list[Delta], results: Mapping[str, Tensor]) -> Iterator[Row]:
    """Compare the errors of the gradients."""
    name = next(n for n in results if n != "ours")
    double = Problem(problem.name, problem.model, problem.batch)
    double.parameters = {n: p.double() for n, p in problem.parameters.items()}
    batch = problem.batch
    double.batch = batch.double() if isinstance(batch, Tensor) else batch
    c = problem.coefficients.clone().requires_grad_()
    weights = official_sum(double, official_store(found, torch.float64), c)
    value = double.loss(lambda *a, **k: torch.func.functional_call(problem.model, weights, a, k))
    wanted = torch.autograd.grad(value, c)[0]
    ours, peer = (float((results[n].double() - wanted).abs().max() / wanted.abs().max()) for n in ("ours", name))
    yield compare(f"{title}: gradient against 1e-5", ours, 1e-5, "relative", goal=1.0, note=f"peer {name}: {peer:.1e}")


def memory(title: str, problem: Problem, found: list[Delta], stores: Mapping[str, Store]) -> Iterator[Row]:
    """Compare the peaks of one step."""

    def step() -> None:
        with entered(problem, found) as composition:
            our_step(problem, composition)

    held, own = sum(d.nbytes for d in found), peak(step)
    name, store = next(iter(stores.items()))
    theirs = peak(lambda: official_step(problem, store)) + store_bytes(store)
    mib = 2.0**20
    note = f"2 theta + store = {(2 * problem.theta + held) / mib:.0f}; store {held / mib:.0f}; with the base "
    note += f"{(own + held + problem.theta) / mib:.0f}; goal without it"
    bound = (2 * problem.theta + held) / mib
    yield compare(f"{title}: peak against 2 theta + store", (own + held) / mib, bound, "MiB", goal=1.0, note=note)
    note = f"peer {name}, its store {store_bytes(store) / mib:.0f}"
    yield compare(f"{title}: peak", (own + held) / mib, theirs / mib, "MiB", note=note)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    both = {"float16": torch.float16, "float32": torch.float32}
    for name, make in (("mlp", mlp), ("minilm", minilm)):
        if arguments.only not in (None, name) or (arguments.quick and name == "minilm"):
            continue
        problem = make()
        yield from scenario(problem, "ternary", both, arguments.repeat)
        yield from scenario(problem, "dense", both, arguments.repeat)
        yield from scenario(problem, "low-rank", {"float32": torch.float32}, arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--quick", action="store_true", help="the MLP only")
    parser.add_argument("--only", choices=("mlp", "minilm"), help="one model only")


if __name__ == "__main__":
    main("aTLAS: a step of learning coefficients, n = 8", measure, options=options)
