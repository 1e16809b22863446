"""Ternary: the signs of the largest entries and a scale, near their entropy.

    signs    the k largest of all N entries, k = floor(density N + 0.5), at least 1       compress/signs.py
    scale    one for all, or one a parameter                                              compress/scales.py
    body     scales (float32), coded signs of all parameters as one vector                core/codec

ComPEFT (Yadav et al. 2023, arXiv 2311.13171), of the entries of what every parameter moved. What arrives are ternary
changes, so that sums can stay on bit planes. Signs alone, without what was left out, lose most of a round: see
feedback.py. A density of 5 % takes about a third of a bit a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from dtheta.compress.compeft import check_scale
from dtheta.compress.scales import Scale, base_scales, finished
from dtheta.compress.signs import check
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.federate.codecs.codec import BitCodec
from dtheta.federate.codecs.entries import entries
from dtheta.federate.codecs.planes import coded, decoded, kept, new_bytes, ternary_changes, together
from dtheta.federate.codecs.reader import Reader, number_bytes
from dtheta.federate.frame import Frame


@dataclass(frozen=True)
class Ternary(BitCodec):
    """The signs of the largest entries and a scale.

    Attributes:
        density: Share of all entries that are kept, in (0, 1].
        scale: "mean-abs" (nearest to the delta), "alpha-sigma" or "least-squares"; see ``dt.compress``.
        per: Whether there is one scale for every "tensor", or one for the "delta"; the entries are chosen alike. With
            one for all, a head whose entries are many times those of the other parameters hardly moves.
        alpha: Multiplies the scale.
    """

    density: float = 0.05
    scale: Scale = "mean-abs"
    per: Literal["delta", "tensor"] = "tensor"
    alpha: float = 1.0
    name: ClassVar[str] = "ternary"
    code: ClassVar[int] = 0x30

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.density, self.per, "product")
        check_scale(self.scale, self.alpha)

    @property
    def variant(self) -> int:
        """Whether every parameter has a scale."""
        return int(self.per == "tensor")

    def _body(self, delta: Delta, frame: Frame) -> bytes:
        found = kept(dict(entries(delta, frame)), frame, self.density)
        scales = finished(found, base_scales(replace(found, per=self.per), self.scale), self.alpha)
        scale = {vector.name: number for vector, number in zip(found.vectors, scales, strict=True)}
        sent = [scale[name] for name in frame.shapes][: None if self.per == "tensor" else 1]
        return number_bytes(torch.stack(sent), "float32", "the scale") + coded(together(found, frame))

    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        scales = body.numbers(len(frame.shapes) if self.per == "tensor" else 1, "float32")
        body.claim(new_bytes(frame))
        return ternary_changes(decoded(body, body.left, frame), scales, frame)
