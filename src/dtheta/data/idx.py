"""The IDX format, in which MNIST and Fashion-MNIST come.

    IDX = 0 0 type rank, rank big-endian 32-bit sizes, then the elements in C order

What the header says is checked against the length of the data, and no more is unpacked than it says.
Source: LeCun, Cortes and Burges's description of the MNIST files.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from dtheta.errors import FormatError

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 1 << 30  # far above MNIST's 47 MB: no header makes us unpack more


def read_idx(path: Path) -> UInt8[Tensor, "*sizes"]:
    """Return the tensor of bytes in an IDX file, gzipped or not.

    Raises:
        FormatError: another element type, or a header that does not fit the data.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as handle:
            zeros, kind, rank = struct.unpack(">HBB", handle.read(4))
            if zeros or kind != _UNSIGNED_BYTE or not rank:
                raise FormatError(f"{path.name} is not an IDX file of bytes")
            sizes = struct.unpack(f">{rank}I", handle.read(4 * rank))
            content = handle.read(min(math.prod(sizes), _MAX_BYTES) + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise FormatError(f"{path.name} cannot be read as IDX: {error}") from error
    if len(content) != math.prod(sizes):
        raise FormatError(f"{path.name} says it holds {' x '.join(map(str, sizes))} bytes, which it does not")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(sizes)
