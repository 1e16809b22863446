"""Layouts: where the examples are in a tensor of a batch.

A model may keep the batch first (N, T, d), second (T, N, d), or run together with other axes (N T, d), (T N, d), or
(windows N, d). Which it is cannot be read off a shape. But the derivative of example n's output is zero at every other
example's places, exactly, as long as examples do not mix; so three examples tell.

Shape legend: an axis of length k1 N k2 has the examples in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The axis that holds the examples, and how many times around them something else is counted on it.

    Attributes:
        axis: Counted from the front.
        before: k1, or 0 where k1 is whatever the length leaves and k2 is 1.
    """

    axis: int
    before: int = 1

    def by_example(self, tensor: Tensor, examples: int) -> Tensor:
        """Return the tensor as (N, ..., k1, k2, ...), the examples in front and the axis in two."""
        length = tensor.shape[self.axis]
        k1 = self.before or length // examples
        k2 = length // (k1 * examples)
        return tensor.unflatten(self.axis, (k1, examples, k2)).movedim(self.axis + 1, 0)

    def fits(self, shape: Sequence[int], examples: int) -> bool:
        """Tell whether a shape can have the examples there."""
        return self.axis < len(shape) and shape[self.axis] % (examples * max(1, self.before)) == 0


def find_layout(gradients: Sequence[Tensor]) -> Layout | None:
    """Return the layout of a tensor of the batch from its derivatives, one for each example's output; None for none.

    Args:
        gradients: For example n, the derivative of its outputs by the whole tensor.
    """
    examples = len(gradients)
    for layout in _candidates(gradients[0].shape, examples):
        if all(_alone(gradient, layout, n, examples) for n, gradient in enumerate(gradients)):
            return layout
    return None


def _candidates(shape: Sequence[int], examples: int) -> Iterator[Layout]:
    """Yield the layouts of a shape, the usual ones first."""
    for axis, length in enumerate(shape):
        if length % examples == 0:
            rest = length // examples
            yield Layout(axis)
            if rest > 1:
                yield Layout(axis, before=0)
            yield from (Layout(axis, k1) for k1 in range(2, rest) if rest % k1 == 0)


def _alone(gradient: Tensor, layout: Layout, n: int, examples: int) -> bool:
    """Tell whether a derivative is zero but at example n."""
    found = layout.by_example(gradient, examples)
    return not bool(found[:n].any()) and not bool(found[n + 1 :].any())
