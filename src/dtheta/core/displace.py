"""The sum of a base tensor and changes of it, rounded once.

    tensor = round(base + D1 + D2 + ...)        in float64, slab by slab, to the dtype of the base

Integers are added in int64 instead, and the changes of one must be whole numbers: exact, or refused.

Accumulating in float64 makes the result independent of the order of the changes and of precision flags, and costs no
more than float32 as long as a slab stays in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dtheta.core.change import Change, matrix_shape, slabs
from dtheta.core.difference import as_int64
from dtheta.core.tensors import all_finite, unsaturated
from dtheta.errors import NonFinite, UnsupportedLayer


def displaced(
    base: Tensor, changes: Sequence[Change], name: str, dtype: torch.dtype | None = None, check: bool = True
) -> Tensor:
    """Return ``base`` plus the changes, in the dtype and memory format of ``base``, or in another ``dtype``.

    Args:
        base: Any real tensor; it is not written to.
        changes: Changes of its shape.
        name: Of the parameter, for messages.
        dtype: Of the result.
        check: Whether to raise where the sum is not finite although the base is.

    Raises:
        UnsupportedLayer: If the base is complex, or of integers and the sum is none that its dtype holds.
        NonFinite: If the sum overflows, or a change holds NaN or infinity.
    """
    if _is_whole(base):
        return _checked(base, _whole(base, changes, name), name, check)
    result = _empty(base, dtype)
    for (start, stop), _, total in _sums(base, changes, name):
        result[start:stop].copy_(unsaturated(total, result.dtype))
    return _checked(base, result, name, check)


def displaced_with_error(
    base: Tensor, changes: Sequence[Change], name: str, dtype: torch.dtype | None = None
) -> tuple[Tensor, float]:
    """Return what ``displaced`` does, and ||realized - wanted|| / ||wanted|| of the displacement (0 if it is zero)."""
    if _is_whole(base):
        return _checked(base, _whole(base, changes, name), name, True), 0.0
    result = _empty(base, dtype)
    wanted, lost = [], []
    for (start, stop), before, total in _sums(base, changes, name):
        result[start:stop].copy_(unsaturated(total, result.dtype))
        lost.append(float(torch.linalg.vector_norm(result[start:stop].to(total) - total)))
        wanted.append(float(torch.linalg.vector_norm(total.sub_(before.double()))))
    length = math.hypot(*wanted)
    return _checked(base, result, name, True), math.hypot(*lost) / length if length else 0.0


def _sums(base: Tensor, changes: Sequence[Change], name: str) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """Yield ranges of rows with the base's rows, and with their sum with the changes in float64.

    The sums share one buffer: fresh memory for each slab would cost more than the arithmetic.
    """
    if base.is_complex():
        raise UnsupportedLayer(f"{name}: cannot move a tensor of {base.dtype}")
    home = base.device if base.device.type != "mps" else torch.device("cpu")  # mps has no float64
    changes = [change.map(lambda t: t.to(home)) for change in changes]
    matrix = base.detach().reshape(matrix_shape(base.shape)).to(home)
    rows, columns = matrix.shape
    buffer = None
    for start, stop in slabs(rows, columns, home):
        before = matrix[start:stop]
        if buffer is None:
            buffer = torch.empty(before.shape, dtype=torch.float64, device=home)
        total = buffer[: stop - start].copy_(before)
        for change in changes:
            cut = change.slab(start, stop)
            if cut is not None:
                cut.add_to(total)
        yield (start, stop), before, total


def _empty(base: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.empty(matrix_shape(base.shape), dtype=dtype or base.dtype, device=base.device)


def _is_whole(base: Tensor) -> bool:
    return not (base.is_floating_point() or base.is_complex())


def _whole(base: Tensor, changes: Sequence[Change], name: str) -> Tensor:
    """Return the sum of a base of integers or booleans with changes that add whole numbers."""
    before, result = as_int64(name, base).reshape(matrix_shape(base.shape)), _empty(base, None)
    nothing = torch.zeros((), dtype=torch.float64, device=base.device).expand(before.shape)
    for (start, stop), _, total in _sums(nothing, changes, name):
        step, part = total.to(torch.int64), before[start:stop]
        after = part + step
        wrapped = ((part ^ after) & (step ^ after)) < 0
        result[start:stop] = after
        exact = torch.equal(step.double(), total) and torch.equal(result[start:stop].to(torch.int64), after)
        wrapped |= (after < 0) & (base.dtype == torch.uint64)
        if not exact or bool((wrapped | (total.abs() > 2**53)).any()):
            raise UnsupportedLayer(
                f"{name}: the base holds {base.dtype} and the sum is not all integers of that type; leave it out: "
                f"delta.restrict('*|!{name}')"
            )
    return result


def _checked(base: Tensor, result: Tensor, name: str, check: bool) -> Tensor:
    if check and not all_finite(result) and all_finite(base):
        raise NonFinite(
            f"{name}: base plus delta is not finite in {result.dtype}: the delta overflows it, or is damaged"
        )
    result = result.reshape(base.shape)
    if result.stride() != base.stride():  # keep the memory format, such as channels-last
        result = torch.empty_like(base, dtype=result.dtype).copy_(result)
    return result
