"""Groups: which targets are held together, so that the tangents of all examples fit into a budget of memory.

The kernel is a sum over parameters, so it can be taken a group at a time; each group costs a sweep over the examples. A
target that does not fit by itself is cut along the last axis of its gradients: over that axis the kernel is a sum, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dtheta.core.tangents import Direct, Outer, Rows, Summed, Tangent
from dtheta.kernels.passes import Footprint


@dataclass(frozen=True)
class Portion:
    """A part of a target: slice ``index`` of ``count`` along the last axis of its gradients."""

    key: str
    index: int = 0
    count: int = 1

    def of(self, tangent: Tangent) -> Tangent:
        """Return this part of a tangent."""
        if self.count == 1:
            return tangent
        if isinstance(tangent, Outer):
            return Outer(tangent.inputs, self._cut(tangent.gradients), tangent.transposed)
        if isinstance(tangent, Rows):
            return Rows(tangent.index, self._cut(tangent.gradients), tangent.count)
        assert isinstance(tangent, Direct)
        return Direct(self._cut(tangent.derivatives))

    def _cut(self, tensor: Tensor) -> Tensor:
        width = tensor.shape[-1]
        return tensor[..., width * self.index // self.count : width * (self.index + 1) // self.count].contiguous()


def footprint(tangents: Sequence[Tangent], examples: int) -> Footprint:
    """Return the memory of tangents, from those of a few examples and one output."""
    inputs: dict[int, float] = {}
    gradients, widths = 0.0, []
    for tangent in (t for whole in tangents for t in (whole.uses if isinstance(whole, Summed) else (whole,))):
        values = tangent.derivatives if isinstance(tangent, Direct) else tangent.gradients  # type: ignore[attr-defined]
        gradients += values.nbytes / examples
        widths.append(values.shape[-1])
        if not isinstance(tangent, Direct):
            a: Tensor = tangent.inputs if isinstance(tangent, Outer) else tangent.index  # type: ignore[attr-defined]
            inputs[a.data_ptr()] = a.nbytes / examples
    # the uses of a sum may have other axes of the parameter last, so they stay whole
    whole = any(isinstance(tangent, Summed) for tangent in tangents)
    return Footprint(inputs, gradients, 1 if whole else min(widths, default=1))


def grouped(footprints: Mapping[str, Footprint], examples: int, outputs: int, budget: float) -> list[list[Portion]]:
    """Return the groups, in the order of the targets.

    Args:
        footprints: By target.
        examples: How many are held, of both sides together.
        outputs: O.
        budget: Bytes.
    """
    groups: list[list[Portion]] = [[]]
    left, shared = budget, set[int]()
    for key, one in footprints.items():
        portions = _portions(key, one, examples, outputs, budget)
        for portion in portions:
            own = sum(size for number, size in one.inputs.items() if number not in shared) * examples
            size = own + one.gradients * examples * outputs / portion.count
            if groups[-1] and size > left:
                groups.append([])
                left, shared = budget, set()
                size = sum(one.inputs.values()) * examples + one.gradients * examples * outputs / portion.count
            groups[-1].append(portion)
            left -= size
            shared |= set(one.inputs)
    return groups


def _portions(key: str, one: Footprint, examples: int, outputs: int, budget: float) -> list[Portion]:
    whole, cut = sum(one.inputs.values()) * examples, one.gradients * examples * outputs
    if whole + cut <= budget or one.width < 2:
        return [Portion(key)]
    count = min(one.width, math.ceil(cut / max(budget - whole, budget / 8)))
    return [Portion(key, i, count) for i in range(count)]
