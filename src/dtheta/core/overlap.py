"""Tensors that share memory without being one, such as ``decoder.weight = encoder.weight.t()``.

Tied weights hold the very same numbers in the same order, and are one tensor to us. A transposed, sliced or reshaped
view of another parameter's memory is not: to move one means to move the other, in another layout, and a change of one
name does not say that. Where nothing moves them they do no harm; what would move one of them is refused.

Views that only interleave, such as q, k and v as columns of one matrix, share no element and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

from dtheta.core.tensors import Owner, why_unreadable, why_unwritable
from dtheta.errors import UnsupportedLayer


def refuse_overlap(held: Mapping[str, Sequence[tuple[Owner, Tensor]]], names: Iterable[str]) -> None:
    """Raise if one of the tensors shares memory with another one.

    Args:
        held: The owners of every tensor of a model and what each holds, as ``core.tensors.shared`` returns them.
        names: Names of the tensors that are to move, as in ``held``.

    Raises:
        UnsupportedLayer: Naming both.
    """
    groups: dict[int, list[tuple[str, Tensor]]] = {}
    for name, owned in held.items():
        tensor = owned[0][1]
        if not (why_unreadable(tensor) or why_unwritable(tensor) or tensor.numel() == 0):
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
    moved = set(names)
    for group in groups.values():
        if len(group) > 1 and not moved.isdisjoint(name for name, _ in group):
            _refuse(group, moved)


def _refuse(group: list[tuple[str, Tensor]], moved: set[str]) -> None:
    for (name, tensor), (other, second) in combinations(group, 2):
        if {name, other} & moved and _meet(tensor, second):
            raise UnsupportedLayer(
                f"{name} and {other} share memory without being the same tensor (one is a transposed, sliced or "
                "reshaped view of the other), so that a change of one would have to change the other as well; give one "
                "of them memory of its own: parameter.data = parameter.data.clone()"
            )


def _meet(a: Tensor, b: Tensor) -> bool:
    """Tell whether two views of one storage have a byte in common."""
    # numpy decides this from addresses alone: an array of that many bytes, of which one exists and none is read
    line = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (a.untyped_storage().nbytes(),), (1,))
    first, second = (
        np.ndarray(
            tuple(t.shape),
            f"V{t.element_size()}",
            line.data,
            t.storage_offset() * t.element_size(),
            [stride * t.element_size() for stride in t.stride()],
        )
        for t in (a, b)
    )
    return np.shares_memory(first, second)
