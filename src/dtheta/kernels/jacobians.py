"""Derivatives without structure: of each example by autograd, or of a chunk of them by vmap(jacrev).

one by one   a forward pass an example and a backward pass an output: always right, for what has no rule
jacrev       torch.func.vmap(jacrev): for models that torch.func can transform; the yardstick of the rest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from dtheta.core.tangents import Direct, Tangent
from dtheta.errors import UnsupportedLayer
from dtheta.fit.batch import rows, taken
from dtheta.kernels.assemble import windowed
from dtheta.kernels.forms import wide
from dtheta.kernels.outputs import require_dependence
from dtheta.kernels.passes import Problem
from dtheta.kernels.subject import Target
from dtheta.kernels.sweeps import Tangents


def one_by_one(problem: Problem, keys: Sequence[str]) -> Tangents:
    """Return the function that takes derivatives example by example."""
    targets = [target for target in problem.targets if target.key in set(keys)]

    def tangents(batch: Any, start: int, stop: int) -> dict[str, list[Tangent]]:
        found = [_example(problem, targets, taken(batch, slice(n, n + 1))) for n in range(start, stop)]
        return {t.key: [Direct(torch.stack([row[i] for row in found]))] for i, t in enumerate(targets)}

    return tangents


def _example(problem: Problem, targets: Sequence[Target], example: Any) -> list[Tensor]:
    """Return the derivatives (O, P) of one example, target by target."""
    f = problem.outputs(example, 1)[0]
    require_dependence(f)
    moving = [p for target in targets for p in target.moving.values()]
    rounds = []
    for o in range(len(f)):
        found = torch.autograd.grad(f[o], moving, retain_graph=o + 1 < len(f), allow_unused=True)
        rounds.append([torch.zeros_like(p) if g is None else g for p, g in zip(moving, found, strict=True)])
    return [torch.stack([row[i] for row in _by_target(targets, rounds)]) for i in range(len(targets))]


def _by_target(targets: Sequence[Target], rounds: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Return, by round, the flat gradients of each target."""
    found = []
    for gradients in rounds:
        left = iter(gradients)
        flat = [torch.cat([wide(next(left).flatten()) for _ in target.moving]) for target in targets]
        found.append([f if t.term is not None else windowed(t, f) for t, f in zip(targets, flat, strict=True)])
    return found


@contextmanager
def differentiable() -> Iterator[None]:
    """Run a block in which attention runs as plain products: its fused kernels have no rules for torch.func."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Called(nn.Module):
    """The outputs of a problem as a module, whose parameters can be swapped and differentiated by.

    Attributes:
        moving: The names in this module of the parameters that move, in their order.
    """

    def __init__(self, problem: Problem, targets: Sequence[Target]) -> None:
        super().__init__()
        self.model = problem.model
        self._outputs = problem.outputs
        names = {id(p): name for name, p in self.named_parameters()}
        self.moving = {names[id(p)]: p for target in targets for p in target.moving.values()}

    def forward(self, batch: Any, examples: int) -> Tensor:
        """Return f (N, O)."""
        return self._outputs(batch, examples)

    def at(self, parameters: Mapping[str, Tensor], batch: Any, examples: int) -> Tensor:
        """Return f (N, O) with other parameters."""
        return torch.func.functional_call(self, dict(parameters), (batch, examples))


def jacrev(problem: Problem, keys: Sequence[str]) -> Tangents:
    """Return the function that takes derivatives by ``torch.func.vmap(torch.func.jacrev)``."""
    targets = [target for target in problem.targets if target.key in set(keys)]
    called = Called(problem, targets)
    moving = {name: p.detach() for name, p in called.moving.items()}
    names = {id(p): name for name, p in called.moving.items()}

    def tangents(batch: Any, start: int, stop: int) -> dict[str, list[Tangent]]:
        whole, _ = pytree.tree_flatten(taken(batch, slice(None)))
        moves = [isinstance(t, Tensor) and t.ndim > 0 and len(t) == rows(batch) for t in whole]
        leaves, spec = pytree.tree_flatten(taken(batch, slice(start, stop)))

        def function(parameters: Mapping[str, Tensor], varied: tuple[Tensor, ...]) -> Tensor:
            left = iter(varied)
            filled = [next(left)[None] if m else t for m, t in zip(moves, leaves, strict=True)]
            return called.at(parameters, pytree.tree_unflatten(filled, spec), 1)[0]

        varied = tuple(t for m, t in zip(moves, leaves, strict=True) if m)
        try:
            with differentiable():
                found = torch.func.vmap(torch.func.jacrev(function), (None, 0))(moving, varied)
        except RuntimeError as error:
            raise UnsupportedLayer(
                f"torch.func cannot transform this model ({str(error).splitlines()[0]}); use method='auto'"
            ) from error
        return {t.key: [_flat(t, [found[names[id(p)]] for p in t.moving.values()])] for t in targets}

    return tangents


def _flat(target: Target, jacobians: Sequence[Tensor]) -> Direct:
    values = torch.cat([wide(j.detach().reshape(*j.shape[:2], -1)) for j in jacobians], 2)
    return Direct(values if target.term is not None else windowed(target, values))
