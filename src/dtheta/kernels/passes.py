"""Passes: one forward and O backward passes over a batch, and the tangents that come out of them.

    f = function(model, batch)                          watched: every call in which something that moves takes part
    g_o = d sum_n f_no / d (results of those calls)     O backward passes, no gradient of any weight among them

Summing over the examples is right because the outputs of one do not depend on another; ``study`` makes sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.tangents import Tangent
from dtheta.errors import UnsupportedLayer
from dtheta.kernels.forms import Form
from dtheta.kernels.layouts import Layout
from dtheta.kernels.outputs import Function, outputs, pseudo, require_dependence
from dtheta.kernels.subject import Target
from dtheta.kernels.watch import Call, Origin, Watch


@dataclass(frozen=True, eq=False)
class Problem:
    """A function of a model and a batch, and what moves.

    Attributes:
        function: (model, batch) -> outputs.
        model: The model, or an adapter.
        targets: What moves.
        reduced: Whether sum_o f_o / sqrt(O) stands for all outputs.
    """

    function: Function
    model: nn.Module
    targets: Sequence[Target]
    reduced: bool = False

    def outputs(self, batch: Any, examples: int) -> Tensor:
        """Return f (N, O)."""
        found = outputs(self.function, self.model, batch, examples)
        return pseudo(found) if self.reduced else found

    def watched(self) -> dict[str, tuple[Tensor, ...]]:
        """Return the tensors whose uses matter, by parameter."""
        return {target.source: target.tensors for target in self.targets}


@dataclass(frozen=True)
class Use:
    """Where a target is used: the number of its parameter's appearance, and where the examples are in the result."""

    number: int
    layout: Layout


@dataclass(frozen=True)
class Footprint:
    """The memory of a target's tangents.

    Attributes:
        inputs: Bytes of each input for one example, by a number that is the same for inputs that are shared.
        gradients: Bytes for one example and one output.
        width: Into how many slices the gradients can be cut.
    """

    inputs: Mapping[int, float]
    gradients: float
    width: int


@dataclass(frozen=True, eq=False)
class Study:
    """What a few examples told; see ``study``.

    Attributes:
        uses: By target, where it is used; a target without a structure is not among them.
        reasons: By target, why it has none.
        names: By parameter, the calls in which it appears in a pass.
        unseen: Appearances of whose layout nothing is known, since no output of the examples depends on the result.
        outputs: O.
        footprints: By target, what its tangents take.
        activations: Bytes of the watched results, for one example.
        patterns: By target, which entries its tangents are of; see ``assemble.pattern``.
        pairs: Biases by their weight, where the two are used once, in one call at one place an example.
    """

    uses: Mapping[str, Sequence[Use]]
    reasons: Mapping[str, str]
    names: Mapping[str, Sequence[str]]
    unseen: frozenset[tuple[str, int]]
    outputs: int
    footprints: Mapping[str, Footprint]
    activations: float
    patterns: Mapping[str, tuple[str, ...]]
    pairs: Mapping[str, str]

    def only(self, keys: Iterable[str]) -> Study:
        """Return the study of some targets."""
        return replace(self, uses={key: self.uses[key] for key in keys})


@dataclass(frozen=True, eq=False)
class Found:
    """A use in one pass, with its gradients; targets that are slices of one parameter have it in common.

    Attributes:
        origin: What of the parameter is used.
        form: How.
        examples: N.
        gradients: Of each output, by the result.
        layout: Where the examples are.
    """

    origin: Origin
    form: Form
    examples: int
    gradients: Sequence[Tensor]
    layout: Layout

    @cached_property
    def tangent(self) -> Tangent:
        """The derivatives by what is used."""
        return self.form.tangent(self.gradients, self.layout, self.examples)


def forward(problem: Problem, batch: Any, examples: int) -> tuple[Tensor, list[Call]]:
    """Run the model once, watched."""
    with Watch(problem.model, problem.watched()) as watch:
        f = problem.outputs(batch, examples)
    require_dependence(f)
    return f, watch.calls


def backward(f: Tensor, calls: Mapping[int, Call]) -> Iterator[dict[int, Tensor]]:
    """Yield, output after output, the gradients by the results of calls; zeros where nothing depends on one."""
    numbers, edges = list(calls), [call.edge for call in calls.values()]
    for o in range(f.shape[1]):
        found = torch.autograd.grad(f[:, o].sum(), edges, retain_graph=o + 1 < f.shape[1], allow_unused=True)
        yield {i: f.new_zeros(calls[i].shape) if g is None else g for i, g in zip(numbers, found, strict=True)}


def uses_of(problem: Problem, batch: Any, examples: int, known: Study) -> tuple[Tensor, dict[str, list[Found]]]:
    """Return f (N, O) and, by target, its uses with their gradients.

    Args:
        problem: What is differentiated.
        batch: The examples.
        examples: Their number.
        known: What a study found; another pass must make the same calls.

    Raises:
        UnsupportedLayer: If the model takes another path for this batch, or writes over what is needed.
    """
    f, calls = forward(problem, batch, examples)
    seen = appearances(calls)
    sources = {t.key: t.source for t in problem.targets if t.key in known.uses}
    for source in dict.fromkeys(sources.values()):
        if [calls[i].name for i, _ in seen.get(source, [])] != list(known.names.get(source, [])):
            raise UnsupportedLayer(
                f"{source}: the model does other things with it for these examples than for the first three, so their "
                "derivatives cannot be taken in one pass; use method='jacobian', or outputs that go one way only"
            )
    places = {(sources[key], use.number): use for key, uses in known.uses.items() for use in uses}
    needed = {i: calls[i] for i in sorted({seen[source][number][0] for source, number in places})}
    rounds = list(backward(f, needed)) if needed else []
    _require_sound(
        needed, rounds, {seen[source][number][0] for source, number in places if (source, number) in known.unseen}
    )
    at = {p: found_at(calls, seen[p[0]][p[1]], rounds, use.layout, examples) for p, use in places.items()}
    return f.detach(), {key: [at[sources[key], use.number] for use in uses] for key, uses in known.uses.items()}


def appearances(calls: Sequence[Call]) -> dict[str, list[tuple[int, int]]]:
    """Return, by parameter, the calls in which it appears, and as which part of them."""
    found: dict[str, list[tuple[int, int]]] = {}
    for i, call in enumerate(calls):
        for j, part in enumerate(call.parts):
            for name in part.origin.names:
                found.setdefault(name, []).append((i, j))
    return found


def found_at(
    calls: Sequence[Call], at: tuple[int, int], rounds: Sequence[Mapping[int, Tensor]], layout: Layout, examples: int
) -> Found:
    """Return one use, from the gradients of every output by the results of calls."""
    part = calls[at[0]].parts[at[1]]
    assert part.form is not None
    return Found(part.origin, part.form, examples, [gradients[at[0]] for gradients in rounds], layout)


def _require_sound(calls: Mapping[int, Call], rounds: Sequence[Mapping[int, Tensor]], unseen: set[int]) -> None:
    for i, call in calls.items():
        if not call.is_intact():
            raise UnsupportedLayer(
                f"what {call.name} (call {i}) multiplies is written over in place later in the forward pass; use an "
                "operation that is not in place there"
            )
        if i in unseen and any(bool(g[i].any()) for g in rounds):
            raise UnsupportedLayer(
                f"nothing depended on the result of {call.name} (call {i}) for the first three examples, but something "
                "does for others, so it is not known where the examples are in it; put such examples first"
            )
