"""The difference of two tensors of one shape, exact wherever a change can hold it.

    floats     tuned - base, taken in float64 and rounded once to the dtype asked for; to float64 if in that dtype a
               number would become zero or infinite
    integers   tuned - base, taken in int64, in float64: exact up to 2**53

So what differs is never zero here. Two tensors whose numbers are equal have no difference, whatever their bits: -0.0
and 0.0 are one number, and so is one value in two dtypes.

Shape legend: both tensors are seen as (m, n) matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.change import matrix_shape, slabs
from dtheta.errors import NonFinite, UnsupportedLayer

_EXACT = 2**53  # whole numbers up to here are float64 numbers


def difference(name: str, base: Tensor, tuned: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``tuned - base`` on the CPU, in ``dtype`` or, where that would lose numbers, in float64.

    Args:
        name: Of the tensor, for messages.
        base: Real numbers on any device.
        tuned: Of the shape of ``base``; both of floats, or both of integers or booleans.
        dtype: float32 or float64.

    Raises:
        NonFinite: If a tensor holds NaN or infinity, or the difference is more than float64 holds.
        UnsupportedLayer: If integers differ by more than 2**53.
    """
    if not base.is_floating_point():
        return _whole(name, base, tuned)
    found, lossless = _rounded(name, base, tuned, dtype)
    return found if lossless or dtype == torch.float64 else _rounded(name, base, tuned, torch.float64)[0]


def _rounded(name: str, base: Tensor, tuned: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Return the difference, and whether every number that is not zero stayed one and finite."""
    shape = matrix_shape(base.shape)
    before, after = base.detach().reshape(shape), tuned.detach().reshape(shape)
    result, lossless = torch.empty(shape, dtype=dtype), True
    for start, stop in slabs(*shape):
        step = after[start:stop].to("cpu", torch.float64) - before[start:stop].to("cpu", torch.float64)
        if not bool(torch.isfinite(step).all()):
            _refuse_nonfinite(name, base, tuned)
        part = result[start:stop]
        part.copy_(step)
        kept = torch.equal(part != 0, step != 0) and bool(torch.isfinite(part).all())
        lossless = lossless and kept
    return result.reshape(base.shape), lossless


def _refuse_nonfinite(name: str, base: Tensor, tuned: Tensor) -> None:
    for role, tensor in (("base", base), ("tuned", tuned)):
        if not bool(torch.isfinite(tensor.double()).all()):
            raise NonFinite(f"{name}: the {role} holds NaN or infinity; there is no difference to take")
    raise NonFinite(f"{name}: the difference is more than float64 holds")


def _whole(name: str, base: Tensor, tuned: Tensor) -> Tensor:
    before, after = as_int64(name, base.cpu()), as_int64(name, tuned.cpu())
    step = after - before
    wrapped = ((before ^ after) & (step ^ after)) < 0
    if bool((wrapped | (step > _EXACT) | (step < -_EXACT)).any()):
        raise UnsupportedLayer(
            f"{name}: its integers differ by more than 2**53, which no change holds exactly; leave it out with select, "
            "and copy that tensor by itself"
        )
    return step.double()


def as_int64(name: str, tensor: Tensor) -> Tensor:
    """Return whole numbers or booleans as int64.

    Raises:
        UnsupportedLayer: If a number is larger than int64 holds.
    """
    found = tensor.detach().to(torch.int64)
    if tensor.dtype == torch.uint64 and bool((found < 0).any()):
        raise UnsupportedLayer(
            f"{name}: it holds integers of 2**63 or more, which cannot be computed with; leave it out with select"
        )
    return found
