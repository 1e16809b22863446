"""Sign: one bit an entry, and the mean magnitude of every parameter.

    D = s sign(delta),   s = mean |delta|,   sign(0) = +1       the nearest of this form
    body     scales (float32), the bit plane of the entries that are not negative

Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, "signSGD", arXiv 1802.04434, sends signs alone; the scale is that
of Karimireddy, Rebjock, Stich and Jaggi 2019, arXiv 1901.09847, with whose error feedback it converges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from dtheta.core.bitplane import joined, packed
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.planes import trusted
from dtheta.errors import FormatError
from dtheta.federate.codecs.codec import BitCodec
from dtheta.federate.codecs.entries import entries
from dtheta.federate.codecs.planes import new_bytes, ternary_changes
from dtheta.federate.codecs.reader import Reader, number_bytes
from dtheta.federate.frame import Frame


@dataclass(frozen=True)
class Sign(BitCodec):
    """The sign of every entry, and a scale for every parameter."""

    name: ClassVar[str] = "sign"
    code: ClassVar[int] = 0x50

    def _body(self, delta: Delta, frame: Frame) -> bytes:
        scales, planes, lengths = [], [], []
        for _, values in entries(delta, frame):
            scales.append(values.double().abs().mean() if values.numel() else torch.zeros((), dtype=torch.float64))
            planes.append(packed((values >= 0).numpy()))
            lengths.append(values.numel())
        plane = joined(planes, lengths, frame.numel)
        return number_bytes(torch.stack(scales), "float32", "the scale") + plane.tobytes()

    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        scales = body.numbers(len(frame.shapes), "float32")
        nbytes, rest = (frame.numel + 7) // 8, frame.numel % 8
        body.claim(4 * nbytes + new_bytes(frame))
        positive = np.frombuffer(body.take(nbytes), np.uint8).copy()
        negative = ~positive
        if rest:
            negative[-1] &= (1 << rest) - 1
            if positive[-1] >> rest:
                raise FormatError("a payload of signs has bits behind its last entry; they must be zero")
        return ternary_changes(trusted(positive, negative, frame.numel), scales, frame)
