"""Sweeps: the tangents of all examples for one group of targets, chunk by chunk into arrays made once.

Inputs that targets of a group share (of q, k and v) are held once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from dtheta.core.tangents import Outer, Tangent
from dtheta.errors import UnsupportedLayer
from dtheta.fit.batch import rows, taken
from dtheta.kernels.assemble import Placed, pattern, spread, tangents_of
from dtheta.kernels.groups import Portion
from dtheta.kernels.passes import Problem, Study, uses_of

#: (all examples, start, stop) to the tangents of those from start to stop, by target. What of a batch counts examples
#: can be told of all of them only: a part may be as long as something else.
Tangents = Callable[[Any, int, int], dict[str, list[Tangent]]]


def chunks(batch: Any, size: int) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, number of examples, examples) of at most ``size`` examples each."""
    for start, stop in spans(rows(batch), size):
        yield start, stop - start, part_of(batch, start, stop)


def spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of at most ``size`` of ``count`` examples each."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


def part_of(batch: Any, start: int, stop: int) -> Any:
    """Return the examples from start to stop, all of them as they are."""
    return batch if stop - start == rows(batch) else taken(batch, slice(start, stop))


def structured(problem: Problem, known: Study, pairs: Mapping[str, str], loose: Collection[str] = ()) -> Tangents:
    """Return the function that takes the tangents of a batch by captured passes.

    Args:
        problem: What is differentiated.
        known: What a study found.
        pairs: Biases by the weight with which they are taken together, (a a' + 1) (g g') in place of two products.
        loose: Targets of which another side uses other entries, or in another form: they come as plain arrays.

    Raises:
        UnsupportedLayer: On a call, if the examples use other entries of a parameter than those of the study.
    """
    by_key = {target.key: target for target in problem.targets}

    def tangents(batch: Any, start: int, stop: int) -> dict[str, list[Tangent]]:
        examples = stop - start
        f, held = uses_of(problem, part_of(batch, start, stop), examples, known)
        found: dict[str, list[Tangent]] = {}
        for key, uses in held.items():
            placed = tangents_of(by_key[key], uses, examples, f.shape[1])
            if key in loose:
                found[key] = spread(by_key[key], placed, examples, f.shape[1])
            else:
                _require_alike(key, placed, known)
                found[key] = [one.tangent for one in placed]
        for weight, bias in pairs.items():
            if weight in found and bias in found:
                found |= {weight: [_with_bias(found[weight][0])], bias: []}
        return found

    return tangents


def _require_alike(key: str, placed: Sequence[Placed], known: Study) -> None:
    if pattern(placed) != known.patterns[key]:
        raise UnsupportedLayer(
            f"{key}: the model uses other entries of it for these examples than for the first three, so their "
            "derivatives cannot be taken in one pass; use method='jacobian', or leave it out of the selection"
        )


def _with_bias(weight: Tangent) -> Tangent:
    assert isinstance(weight, Outer)
    return Outer(F.pad(weight.inputs, (0, 1), value=1.0), weight.gradients)


def sweep(of: Tangents, batch: Any, chunk: int, group: Sequence[Portion]) -> list[list[Tangent]]:
    """Return, by portion, the tangents of all examples."""
    store: list[list[Tangent]] = []
    count = rows(batch)
    for start, stop in spans(count, chunk):
        found = of(batch, start, stop)
        cut = [[portion.of(tangent) for tangent in found[portion.key]] for portion in group]
        if stop - start == count:
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
