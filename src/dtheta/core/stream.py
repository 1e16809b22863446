"""A stored tensor read by ranges of its elements, so that one larger than memory can be worked on.

    element e of the tensor = bytes start + e itemsize ... of the file

Ranges are read into one buffer that is used again, not mapped: pages of a mapped file count as memory of the process
for as long as the system likes. A tensor for which there is room may be kept instead; what is read is the same.

The digest of a tensor is that of fingerprint.py, taken range by range.

Shape legend: a range of n elements is (n,).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from dtheta.core.fingerprint import begun_digest
from dtheta.core.tensorfile import Entry, TensorFile, data_of
from dtheta.errors import FormatError

#: Elements of a range: half a megabyte of float64 stays in the cache of one core.
SLAB = 1 << 16


def ranges(total: int, size: int = SLAB) -> Iterator[tuple[int, int]]:
    """Yield consecutive ranges of at most ``size`` elements."""
    for start in range(0, total, size):
        yield start, min(start + size, total)


def announce(file: TensorFile, name: str) -> None:
    """Tell the system that a tensor will be read soon, so that the disk works meanwhile; a hint, and no more."""
    if not hasattr(os, "posix_fadvise"):
        return
    entry = file.entries[name]
    with file.open() as handle:
        os.posix_fadvise(handle.fileno(), entry.start, entry.nbytes, os.POSIX_FADV_WILLNEED)


class TensorStream:
    """One tensor of a file, read by ranges while the ``with`` block is open.

    Args:
        file: The checked header.
        name: Of the tensor.
        resident: Whether to read the whole tensor once and keep it.
    """

    def __init__(self, file: TensorFile, name: str, resident: bool = False) -> None:
        self.file = file
        self.name = name
        self.entry: Entry = file.entries[name]
        self._resident = resident
        self._whole: Tensor | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._held = (0, 0)
        self._stack = ExitStack()
        self._handle: BinaryIO

    def __enter__(self) -> TensorStream:
        if not self._resident:
            self._handle = self._stack.enter_context(self.file.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def read(self, start: int, stop: int) -> Tensor:
        """Return elements ``start:stop`` in the stored dtype, (stop - start,); valid until the next call, read only.

        Raises:
            FormatError: If the file was replaced or has become shorter since its header was read, or cannot be read.
        """
        if self._resident:
            if self._whole is None:
                self._whole = self.file.read(self.name).reshape(-1)
            return self._whole[start:stop]
        size = self.entry.dtype.itemsize
        if self._buffer.numel() < (stop - start) * size:
            self._buffer = torch.empty((stop - start) * size, dtype=torch.uint8)
        data = self._buffer[: (stop - start) * size]
        if self._held != (start, stop):
            self._held = (0, 0)
            self._fill(memoryview(data.numpy()), self.entry.start + start * size)  # type: ignore[arg-type]
            self._held = (start, stop)
        return data.view(self.entry.dtype)

    def _fill(self, view: memoryview, at: int) -> None:
        self._handle.seek(at)
        done = 0
        while done < len(view):
            count = self._handle.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise FormatError(f"{self.file.path}: the file became shorter while it was read")
            done += count


class StreamDigest:
    """The digest of a tensor whose elements come range by range, in order; equals ``tensor_digest`` of the whole."""

    def __init__(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self._hash = begun_digest(dtype, shape)

    def update(self, part: Tensor) -> None:
        """Take the next elements."""
        self._hash.update(data_of(part))

    def hexdigest(self) -> str:
        """Return the digest of what has come so far, as hex."""
        return self._hash.hexdigest()
