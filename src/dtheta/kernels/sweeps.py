"""Sweeps: the tangents of all examples for one group of targets, chunk by chunk into arrays made once.

Inputs that targets of a group share (of q, k and v) are held once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from dtheta.core.tangents import Outer, Tangent
from dtheta.fit.batch import rows, taken
from dtheta.kernels.assemble import tangents_of
from dtheta.kernels.groups import Portion
from dtheta.kernels.passes import Problem, Study, uses_of

#: A batch to tangents by target.
Tangents = Callable[[Any, int], dict[str, list[Tangent]]]


def chunks(batch: Any, size: int) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, number of examples, examples) of at most ``size`` examples each."""
    count = rows(batch)
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield start, stop - start, batch if stop - start == count else taken(batch, slice(start, stop))


def structured(problem: Problem, known: Study, pairs: Mapping[str, str]) -> Tangents:
    """Return the function that takes the tangents of a batch by captured passes.

    Args:
        problem: What is differentiated.
        known: What a study found.
        pairs: Biases by the weight with which they are taken together, (a a' + 1) (g g') in place of two products.
    """
    by_key = {target.key: target for target in problem.targets}

    def tangents(batch: Any, examples: int) -> dict[str, list[Tangent]]:
        f, held = uses_of(problem, batch, examples, known)
        found = {
            key: [one.tangent for one in tangents_of(by_key[key], uses, examples, f.shape[1])]
            for key, uses in held.items()
        }
        for weight, bias in pairs.items():
            if weight in found and bias in found:
                found |= {weight: [_with_bias(found[weight][0])], bias: []}
        return found

    return tangents


def _with_bias(weight: Tangent) -> Tangent:
    assert isinstance(weight, Outer)
    return Outer(F.pad(weight.inputs, (0, 1), value=1.0), weight.gradients)


def sweep(of: Tangents, batch: Any, chunk: int, group: Sequence[Portion]) -> list[list[Tangent]]:
    """Return, by portion, the tangents of all examples."""
    store: list[list[Tangent]] = []
    count = rows(batch)
    for start, examples, part in chunks(batch, chunk):
        found = of(part, examples)
        cut = [[portion.of(tangent) for tangent in found[portion.key]] for portion in group]
        if examples == count:
            return cut
        if not store:
            store = _allocated(cut, count)
        _fill(store, cut, start)
    return store


def _allocated(first: Sequence[Sequence[Tangent]], count: int) -> list[list[Tangent]]:
    made: dict[tuple[Any, ...], Tensor] = {}

    def room(tensor: Tensor) -> Tensor:
        return made.setdefault(_place(tensor), tensor.new_empty(count, *tensor.shape[1:]))

    return [[tangent.mapped(room) for tangent in tangents] for tangents in first]


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _fill(store: Sequence[Sequence[Tangent]], found: Sequence[Sequence[Tangent]], start: int) -> None:
    written: set[int] = set()
    for into, tangents in zip(store, found, strict=True):
        for whole, tangent in zip(into, tangents, strict=True):
            for target, tensor in zip(_tensors(whole), _tensors(tangent), strict=True):
                if target.data_ptr() not in written:
                    written.add(target.data_ptr())
                    target[start : start + len(tensor)] = tensor


def _tensors(tangent: Tangent) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    tangent.mapped(note)
    return found
