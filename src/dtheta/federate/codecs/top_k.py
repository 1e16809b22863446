"""Top-k: the largest entries as they are, all others zero.

    body     bytes of the code (8), coded signs and places of all parameters as one vector, magnitudes of the kept ones

Places and signs take what a ternary codec takes at that density; the numbers come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dtheta.compress.signs import check
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.planes import Planes
from dtheta.federate.codecs.codec import BitCodec
from dtheta.federate.codecs.entries import entries
from dtheta.federate.codecs.planes import coded, decoded, kept, together
from dtheta.federate.codecs.reader import NUMBERS, Number, Reader, number_bytes
from dtheta.federate.frame import Frame


@dataclass(frozen=True)
class TopK(BitCodec):
    """The largest entries.

    Attributes:
        density: Share of all entries that are kept, in (0, 1].
        dtype: Of their magnitudes: "float32", "float16" or "bfloat16".
    """

    density: float = 0.05
    dtype: Number = "float32"
    name: ClassVar[str] = "top-k"
    code: ClassVar[int] = 0x40

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.density, "delta", "product")

    @property
    def variant(self) -> int:
        """The dtype."""
        return NUMBERS.index(self.dtype)

    def _body(self, delta: Delta, frame: Frame) -> bytes:
        rows = dict(entries(delta, frame))
        planes = together(kept(rows, frame, self.density), frame)
        signs = torch.from_numpy(planes.to_signs())
        sizes = []
        for name, values in rows.items():
            part = signs[slice(*frame.spans[name])]
            sizes.append(number_bytes(values[part != 0].abs(), self.dtype, name))
        code = coded(planes)
        return len(code).to_bytes(8, "little") + code + b"".join(sizes)

    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        planes = decoded(body, body.whole(8), frame)
        sizes = body.numbers(planes.count, self.dtype)
        body.claim(6 * frame.numel)  # signs, their mask, and numbers
        values = _spread(planes, sizes.numpy())
        return {name: frame.change(name, values[start:stop].clone()) for name, (start, stop) in frame.spans.items()}


def _spread(planes: Planes, sizes: np.ndarray) -> torch.Tensor:
    """Return magnitudes (k,) with their signs at their places, (N,)."""
    signs = planes.to_signs()
    values = signs.astype(np.float32)
    values[signs != 0] *= sizes
    return torch.from_numpy(values)
