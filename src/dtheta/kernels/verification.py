"""Verification: what the rules make of the uses of a parameter, compared with what autograd says.

    outputs   sum_n w_n f_n . v                of random w and v: examples are apart, and no use is left out
    results   sum_i <u_i, result of call i>    of random u: every rule, also where no output depends on a result yet

The second tells of parameters whose derivatives vanish for the few examples at hand, such as those below a head of
zeros or behind a gate that is shut; it is taken of those, and of what is used more than once, since one of the uses may
be silent where another speaks. Where both sums say nothing of a parameter that the outputs depend on, nothing is
known of its uses, and that is a reason against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from dtheta.core.seeds import generator
from dtheta.errors import UnsupportedLayer
from dtheta.kernels.assemble import Placed, gradients_of, tangents_of, windowed
from dtheta.kernels.passes import Problem, Use, found_at
from dtheta.kernels.subject import Target
from dtheta.kernels.watch import Call

#: Where each source is used, as (call, part), in order: what ``passes.appearances`` returns.
Appearances: TypeAlias = Mapping[str, Sequence[tuple[int, int]]]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.2}


@dataclass(frozen=True, eq=False)
class Uses:
    """What a study believes of a forward pass.

    Attributes:
        problem: What is differentiated.
        calls: Of the pass.
        seen: Where each source is used.
        uses: By target.
        examples: N.
    """

    problem: Problem
    calls: Sequence[Call]
    seen: Appearances
    uses: Mapping[str, Sequence[Use]]
    examples: int

    @property
    def targets(self) -> list[Target]:
        """Those of known uses."""
        return [target for target in self.problem.targets if target.key in self.uses]

    def places(self, target: Target) -> set[tuple[int, int]]:
        """Return the calls in which a target is used, and as which part of them."""
        return {self.seen[target.source][use.number] for use in self.uses[target.key]}

    def assembled(
        self, targets: Sequence[Target], gradients: Mapping[int, Tensor]
    ) -> tuple[dict[str, list[Placed]], dict[str, str]]:
        """Return the tangents by target, from gradients by the results of calls; and why some have none."""
        places = {(t.source, use.number): use.layout for t in targets for use in self.uses[t.key]}
        at = {
            p: found_at(self.calls, self.seen[p[0]][p[1]], [gradients], layout, self.examples)
            for p, layout in places.items()
        }
        placed: dict[str, list[Placed]] = {}
        reasons: dict[str, str] = {}
        for target in targets:
            found = [at[target.source, use.number] for use in self.uses[target.key]]
            try:
                placed[target.key] = tangents_of(target, found, self.examples, 1)
            except UnsupportedLayer as error:
                reasons[target.key] = str(error)
        return placed, reasons


def compared(
    believed: Uses, f: Tensor, weights: Tensor, gradients: Sequence[Tensor]
) -> tuple[dict[str, list[Placed]], dict[str, str]]:
    """Return the tangents by target, and why some are not to be trusted.

    Args:
        believed: The uses.
        f: The outputs (N, O).
        weights: v (O,).
        gradients: Of sum_n f_n . v by the results of all calls.
    """
    placed, reasons = believed.assembled(believed.targets, dict(enumerate(gradients)))
    targets = [target for target in believed.targets if target.key not in reasons]
    by_outputs = _outputs(f, weights, targets, placed)
    silent = [t for t in targets if len(believed.uses[t.key]) != 1 or not by_outputs[t.key].tells]
    by_results = _results(believed, silent, gradients, f.dtype)
    untold: list[str] = []
    for key, one in by_outputs.items():
        both = [one, by_results[key]] if key in by_results else [one]
        wrong = next((c for c in both if not c.holds), None)
        if wrong is not None:
            reasons[key] = f"its uses do not add up to its gradient (off by {wrong.error:.2g} of {wrong.size:.2g})"
        elif one.connected and not any(c.tells for c in both):
            untold.append(key)
    told = {place for t in targets if t.key not in {*reasons, *untold} for place in believed.places(t)}
    for target in targets:
        # two that make one tensor, such as a gate at zero and what it multiplies, are used where that tensor is
        if target.key in untold and not (told.issuperset(places := believed.places(target)) and places):
            reasons[target.key] = "its derivatives vanish for the first three examples, which tell nothing of its uses"
    return placed, reasons


@dataclass(frozen=True)
class _Comparison:
    """One target's derivative of a sum, by its uses and by autograd.

    Attributes:
        error: Norm of the difference.
        size: Norm of autograd's.
        connected: Whether the sum depends on the target in any way.
        tolerance: Of the error, relative to the size and the floor.
        floor: A size that may be nothing but rounding.
    """

    error: float
    size: float
    connected: bool
    tolerance: float
    floor: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the two are equal, or rounding beside the largest."""
        return self.error <= self.tolerance * (self.size + self.floor)

    @property
    def tells(self) -> bool:
        """Whether they are equal as numbers of their own size, above rounding."""
        return self.size > 0 and self.error <= self.tolerance * self.size


def _outputs(
    f: Tensor, weights: Tensor, targets: Sequence[Target], placed: Mapping[str, Sequence[Placed]]
) -> dict[str, _Comparison]:
    """Compare derivatives of a weighted sum of the examples' outputs."""
    weighed = torch.randn(len(f), 1, generator=generator(1, "tangent study"), dtype=torch.float64, device="cpu").to(f)
    value, moving = (weighed.mT @ f @ weights)[0], _moving(targets)
    found = torch.autograd.grad(value, moving, retain_graph=True, allow_unused=True) if moving else ()
    # a derivative may be nothing but rounding, as by a scale behind which another normalization stands
    rounding = 100 * torch.finfo(f.dtype).eps * max(1.0, abs(float(value.detach())))
    return _by_target(targets, placed, weighed, found, f.dtype, rounding)


def _results(
    believed: Uses, targets: Sequence[Target], gradients: Sequence[Tensor], dtype: torch.dtype
) -> dict[str, _Comparison]:
    """Compare derivatives of a random combination of the results of all calls in which something is used."""
    # what a term adds to a layer's result comes after that result, so the weight that it displaces stands for it
    targets = [target if target.term is None else _base_of(target) for target in targets]
    numbers = sorted({i for target in targets for i, _ in believed.places(target)})
    if not numbers:
        return {}
    draw = generator(2, "tangent study")
    edges = [believed.calls[i].edge for i in numbers]
    u = [_unit(gradients[i], draw) for i in numbers]
    leaves = [get_gradient_edge(parameter) for parameter in _moving(targets)]
    found = torch.autograd.grad(edges, [*edges, *leaves], u, retain_graph=True, allow_unused=True)
    at = {i: given if g is None else g for i, g, given in zip(numbers, found, u, strict=False)}
    placed, _ = believed.assembled(targets, at)
    ones = gradients[0].new_ones(believed.examples, 1)
    return _by_target(targets, placed, ones, found[len(edges) :], dtype, 0.0)


def _base_of(target: Target) -> Target:
    """Return the parameter that a term displaces."""
    return replace(target, term=None, weight=1.0, moving={target.source: target.tensors[0]})


def _unit(like: Tensor, draw: torch.Generator) -> Tensor:
    """Return a random tensor with a norm of about one."""
    drawn = torch.randn(like.shape, generator=draw, dtype=torch.float64, device="cpu")
    return (drawn / max(1, like.numel()) ** 0.5).to(like)


def _moving(targets: Sequence[Target]) -> list[Tensor]:
    return [parameter for target in targets for parameter in target.moving.values()]


def _by_target(
    targets: Sequence[Target],
    placed: Mapping[str, Sequence[Placed]],
    weights_NO: Tensor,
    found: Sequence[Tensor | None],
    dtype: torch.dtype,
    rounding: float,
) -> dict[str, _Comparison]:
    """Compare the gradients that autograd found, in the order of what moves, with those of the tangents."""
    left, compared = iter(found), dict[str, _Comparison]()
    for target in targets:
        given = [next(left) for _ in target.moving]
        own = gradients_of(target, placed[target.key], weights_NO)
        wanted = _flat(target, given)
        error = max(float(torch.linalg.vector_norm(a.to(b) - b)) for a, b in zip(own, wanted, strict=True))
        size = max(float(torch.linalg.vector_norm(b)) for b in wanted)
        connected = any(g is not None for g in given)
        compared[target.key] = _Comparison(error, size, connected, _tolerance(target, dtype))
    largest = max((one.size for one in compared.values()), default=0.0)
    return {k: replace(one, floor=1e-2 * largest + rounding / one.tolerance) for k, one in compared.items()}


def _flat(target: Target, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the gradients by what moves, flat; of a window, its entries."""
    pairs = zip(target.moving.values(), gradients, strict=True)
    flat = [(p.new_zeros(p.shape) if g is None else g).flatten() for p, g in pairs]
    return flat if target.term is not None else [windowed(target, flat[0])]


def _tolerance(target: Target, dtype: torch.dtype) -> float:
    """Return that of the coarsest numbers between the target and the outputs."""
    return max(TOLERANCE.get(d, 1e-3) for d in (dtype, *(p.dtype for p in (*target.tensors, *target.moving.values()))))
