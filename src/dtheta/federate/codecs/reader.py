"""Streams of a payload, read with every length checked, and the numbers in them.

Nothing is allocated that was not claimed from the room that the cap leaves, and nothing is read that is not there.
Numbers are little-endian.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dtheta.errors import FormatError, NonFinite

Number = Literal["float32", "float16", "bfloat16"]
NUMBERS: tuple[Number, ...] = ("float32", "float16", "bfloat16")
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Reader:
    """The body of a payload, read from the first byte to the last.

    Args:
        body: The bytes.
        room: Bytes that decoding may allocate.
    """

    def __init__(self, body: memoryview, room: int) -> None:
        self._body = body
        self._at = 0
        self.room = room

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._body) - self._at

    def claim(self, nbytes: int) -> None:
        """Take bytes from the room, before they are allocated.

        Raises:
            FormatError: If there is not so much room.
        """
        if nbytes > self.room:
            raise FormatError(
                f"decoding this payload takes {nbytes:,} bytes more, and {self.room:,} are left of the cap; "
                "large models need a larger cap"
            )
        self.room -= nbytes

    def take(self, nbytes: int) -> memoryview:
        """Return the next bytes, without a copy.

        Raises:
            FormatError: If there are fewer.
        """
        if nbytes > self.left:
            raise FormatError(f"a payload ends early: {nbytes:,} bytes are due, {self.left:,} are left")
        self._at += nbytes
        return self._body[self._at - nbytes : self._at]

    def whole(self, nbytes: int) -> int:
        """Return the next number without sign, of so many bytes."""
        return int.from_bytes(self.take(nbytes), "little")

    def numbers(self, count: int, dtype: str) -> Tensor:
        """Return the next numbers, (count,), in a tensor of their own: float64 as such, all others as float32.

        Raises:
            FormatError: If there are fewer, or one is NaN or infinite.
        """
        data = self.take(count * _BYTES[dtype])
        self.claim(count * (9 if dtype in ("bfloat16", "float64") else 5))  # and a flag each, whether it is finite
        values = _floats(data, dtype)
        if not np.isfinite(values).all():
            raise FormatError("a payload holds NaN or infinity, which no sender of ours writes")
        return torch.from_numpy(values)

    def end(self) -> None:
        """Check that everything was read.

        Raises:
            FormatError: If something is left.
        """
        if self.left:
            raise FormatError(f"a payload has {self.left:,} bytes more than its frame and codec need")


def _floats(data: memoryview, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    stored = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return stored.astype(np.float64 if dtype == "float64" else np.float32)


def number_bytes(values: Tensor, dtype: str, what: str) -> bytes:
    """Return numbers as bytes, rounded to a dtype, in storage order.

    Raises:
        NonFinite: If one is NaN, infinite, or beyond the dtype.
    """
    narrow = values.detach().to("cpu", getattr(torch, dtype)).contiguous()
    if not bool(torch.isfinite(narrow).all()):
        raise NonFinite(f"{what}: a number is NaN, infinite, or too large for {dtype}; send it in float32, or clip it")
    if dtype == "bfloat16":
        return narrow.view(torch.int16).numpy().astype("<i2").tobytes()
    return narrow.numpy().astype(np.dtype(dtype).newbyteorder("<")).tobytes()
