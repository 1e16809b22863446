"""The elements of a tensor or array in storage order, as NumPy sees them: the boundary between torch and the loops.

    flat     one array on the same memory, where NumPy has the dtype (all but bfloat16)
    pieces   short ranges one after the other, 16-bit floats widened to float32 on the way

Memory is shared wherever that is possible. What is read may have any strides, at the price of a copy; what is written
must lie in one run, since a copy would swallow the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.tensors import why_unreadable
from dtheta.errors import ConfigError, UnsupportedLayer

Values: TypeAlias = NDArray[Any] | Tensor
PIECE = 1 << 18  # elements that are widened at once
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def flat(values: Values, what: str, written: bool = False) -> NDArray[Any]:
    """Return the elements of a float32 or float64 tensor or array, (n,), on the same memory where that can be.

    Args:
        values: Tensor on the CPU or NumPy array, of any shape.
        what: Name of it for messages.
        written: Whether the result is written to, so that it must share the memory.

    Raises:
        UnsupportedLayer: For another dtype, device or layout.
        ConfigError: If it is to be written and is read-only or does not lie in one run of memory.
    """
    array = _array(values, what)
    if array.dtype not in _FLOATS:
        raise UnsupportedLayer(f"{what} is {array.dtype}; expected float32 or float64, convert it first")
    if written and not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        raise ConfigError(
            f"{what} of shape {array.shape} and strides {array.strides} cannot be written in place: it must be "
            "writable and lie in one run of memory; pass a contiguous copy"
        )
    return np.require(array, requirements=["C", "A"]).reshape(-1)


def pieces(values: Values, what: str, least: Any = np.float32) -> Iterator[NDArray[Any]]:
    """Yield the elements of a floating-point tensor or array in order, as float32 or float64 arrays.

    What is at least as wide as ``least`` comes as one piece, on the same memory where that can be; narrower floats come
    in widened copies of at most ``PIECE`` elements.

    Raises:
        UnsupportedLayer: If it is not a floating-point tensor or array on the CPU.
    """
    if isinstance(values, Tensor) and values.dtype == torch.bfloat16:
        _check_tensor(values, what)
        upper = values.detach().reshape(-1).view(torch.int16).numpy().view(np.uint16)  # half the bits of float32
        for start in range(0, upper.size, PIECE):
            wide = upper[start : start + PIECE].astype(np.uint32) << 16
            yield wide.view(np.float32).astype(least, copy=False)
        return
    line = _array(values, what)
    if line.dtype == np.float16 or (line.dtype in _FLOATS and line.itemsize < np.dtype(least).itemsize):
        line = line.reshape(-1)
        for start in range(0, line.size, PIECE):
            yield line[start : start + PIECE].astype(least)
    else:
        yield flat(values, what)


def size_of(values: Values) -> int:
    """Return the number of elements."""
    return values.numel() if isinstance(values, Tensor) else values.size


def _array(values: Values, what: str) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    _check_tensor(values, what)
    if values.dtype == torch.bfloat16:
        raise UnsupportedLayer(f"{what} is torch.bfloat16; expected float32 or float64, convert it first")
    return values.detach().numpy()


def _check_tensor(values: Any, what: str) -> None:
    if not isinstance(values, Tensor):
        raise UnsupportedLayer(f"{what} is a {type(values).__name__}; expected a torch tensor or a NumPy array")
    if problem := why_unreadable(values):
        raise UnsupportedLayer(f"{what} cannot be read: {problem}")
    if values.device.type != "cpu":
        raise UnsupportedLayer(f"{what} is on {values.device}; move it to the CPU first")
