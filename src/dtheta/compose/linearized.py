"""The linearized model: its first-order expansion around the base, moved along a composition of deltas.

    g(x) = f(x; theta0) + J(x) v,   v^(j) = sum_i c_i^(j) tau_i^(j),   J(x) = df/dtheta at theta0

One forward-mode product gives f and J v together, about the cost of two or three forward passes, and g is linear in the
coefficients (Ortiz-Jimenez et al. 2023, arXiv 2305.12827; learned scaling on it in aTLAS, arXiv 2407.02880). Here v is
a buffer without a graph, as theta is for the plain model: the backward pass through the product gives dL/dv, and
dL/dc_i^(j) = <dL/dv^(j), tau_i^(j)>.

Deltas meant for this come from fine-tuning the linearized model; others work, with what linearization leaves of them.
The output may be any structure of tensors; attention runs as plain products, since its fused kernels have no forward
mode.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from dtheta.compose.gradient import Composition, subspaces
from dtheta.compose.swap import places, swapped
from dtheta.core.apply import bind, originals
from dtheta.core.delta import Delta


class Linearized(nn.Module):
    """A model with ``f(x) + J(x) v`` in place of ``f(x)``; otherwise it reads like the model.

    Attributes:
        model: The model; its own parameters are theta0.
        tangents: v by parameter name.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, tangents: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.tangents = dict(tangents)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the expansion of what the model returns for these inputs."""
        primals = {name: originals(self.model)[name].detach() for name in self.tangents}
        moving = {name: v.to(primals[name].dtype) for name, v in self.tangents.items()}
        rest: list[Any] = []

        def function(parameters: dict[str, Tensor]) -> list[Tensor]:
            output = torch.func.functional_call(self.model, parameters, args, kwargs)
            leaves, spec = pytree.tree_flatten(output)
            moved = [isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves]
            rest[:] = [spec, moved, [leaf for leaf, moves in zip(leaves, moved, strict=True) if not moves]]
            return [leaf for leaf, moves in zip(leaves, moved, strict=True) if moves]

        with sdpa_kernel(SDPBackend.MATH):
            values, products, *_ = torch.func.jvp(function, (primals,), (moving,))
        spec, moved, fixed = rest
        sums, kept = iter([a + b for a, b in zip(values, products, strict=True)]), iter(fixed)
        return pytree.tree_unflatten([next(sums) if moves else next(kept) for moves in moved], spec)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


def linearized(model: nn.Module, delta: Delta, strict: bool = True) -> Linearized:
    """Return the model's expansion around its base, moved along a delta: what coefficients learned on it are for.

    Args:
        model: The base; it is kept, and not changed.
        delta: Such as ``compose`` made with the coefficients.
        strict: Whether the base must be, bit for bit, the one that the delta was made on.

    Raises:
        BaseMismatch, UnknownParameter, ShapeMismatch: As ``applied``.
    """
    delta = bind(delta, model, strict=strict)
    found = {place.name: place.base for place in places(model, list(delta))}
    return Linearized(model, {n: delta.changes[n].dense().to(b.device, b.dtype) for n, b in found.items()})


@contextmanager
def linearly_composed(
    model: nn.Module, deltas: Sequence[Delta], names: Sequence[str], selected: Tensor, parts: int = 1, seed: int = 0
) -> Iterator[Composition]:
    """Run a block with the linearized model moved along the composition of deltas; see ``gradient.composed``."""
    found = places(model, names)
    spaces = subspaces(deltas, found, selected, parts, seed)
    tangents = {p.name: torch.zeros(p.base.shape, dtype=p.base.dtype, device=p.base.device) for p in found}
    for tangent in tangents.values():
        tangent.requires_grad_()

    @torch.no_grad()
    def show(values_nmK: Tensor, exact: bool) -> None:
        for j, space in enumerate(spaces):
            write = space.exactly if exact else space.down
            write(None, values_nmK[:, j], tangents[space.name])

    with swapped(model, [], {}):  # no parameter of the base takes a gradient
        expansion = Linearized(model, tangents)
        composition = Composition(expansion, spaces, {name: [v] for name, v in tangents.items()}, show)
        with composition.listening():
            yield composition
