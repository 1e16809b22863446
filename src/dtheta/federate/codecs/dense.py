"""Dense: every entry as a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.federate.codecs.codec import BitCodec
from dtheta.federate.codecs.entries import entries
from dtheta.federate.codecs.reader import NUMBERS, Number, Reader, number_bytes
from dtheta.federate.frame import Frame


@dataclass(frozen=True)
class Dense(BitCodec):
    """Every entry of every parameter, rounded to a dtype.

    Attributes:
        dtype: "float32", "float16" or "bfloat16".
    """

    dtype: Number = "float32"
    name: ClassVar[str] = "dense"
    code: ClassVar[int] = 0x10

    @property
    def variant(self) -> int:
        """The dtype."""
        return NUMBERS.index(self.dtype)

    def _body(self, delta: Delta, frame: Frame) -> bytes:
        return b"".join(number_bytes(values, self.dtype, name) for name, values in entries(delta, frame))

    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        spans = frame.spans.items()
        return {name: frame.change(name, body.numbers(stop - start, self.dtype)) for name, (start, stop) in spans}
