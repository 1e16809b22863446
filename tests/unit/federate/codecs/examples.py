"""Deltas of every form in one frame, and all codecs."""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.planes import Planes
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.ternary import ternary
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.federate import codecs
from dtheta.federate.codecs.codec import Codec
from dtheta.federate.frame import Frame

CAP = 1 << 22

CODECS: dict[str, Codec] = {
    "dense": codecs.Dense(),
    "dense float16": codecs.Dense("float16"),
    "dense bfloat16": codecs.Dense("bfloat16"),
    "exact": codecs.Exact(),
    "ternary": codecs.Ternary(0.2),
    "ternary per tensor": codecs.Ternary(0.2, per="tensor", scale="least-squares"),
    "top-k": codecs.TopK(0.1),
    "top-k float16": codecs.TopK(0.1, "float16"),
    "sign": codecs.Sign(),
    "low-rank": codecs.LowRank(3),
    "amplitude": codecs.Amplitude(2000),
}
BITS = {name: codec for name, codec in CODECS.items() if not codec.drawn}


def draw(*shape: int, index: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, the same at every call."""
    return torch.randn(shape, generator=generator(0, f"codecs/{shape}", index), dtype=dtype)


def signs(rows: int, columns: int, index: int = 0) -> Planes:
    return Planes.from_signs(draw(rows, columns, index=index).mul(0.8).round().clamp(-1, 1).to(torch.int8))


def base_of(changes: dict[str, Change]) -> Fingerprint:
    """A base of bfloat16 tensors of the right shapes, but for the new vectors."""
    shapes = {name: change.shape for name, change in changes.items() if not change.is_new}
    return fingerprint({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()})


def delta(index: int = 0) -> Delta:
    """A change of every form: matrices, vectors, a scalar, an empty tensor, new vectors."""
    scale = torch.tensor(0.5)
    rows = torch.tensor([1, 4, 5])
    changes: dict[str, Change] = {
        "dense": Dense(draw(7, 9, index=index)),
        "wide": Dense(draw(4, 5, index=index, dtype=torch.float64)),
        "scalar": Dense(draw(index=index)),
        "bias": Dense(draw(13, index=index)),
        "empty": Dense(torch.zeros(0, 3)),
        "factors": LowRank(draw(12, 2, index=index), draw(2, 10, index=index), draw(2, index=index)),
        "convolution": LowRank(draw(6, 1, index=index), draw(1, 18, index=index), None, (6, 2, 3, 3)),
        "rows": Rows(rows, draw(3, 6, index=index), (8, 6)),
        "block": Block(LowRank(draw(3, 1, index=index), draw(1, 8, index=index)), 0, 3, (9, 8)),
        "signs": ternary(signs(5, 11, index), scale, (5, 11)),
        "pair": TernaryFactors(
            ternary(signs(6, 2, index), scale, (6, 2)), ternary(signs(2, 7, index), scale, (2, 7)), (6, 7)
        ),
        "sum": LowRank(draw(6, 1), draw(1, 5)) + (0.25 * LowRank(draw(6, 1, index=index), draw(1, 5, index=1))),
        "prompt": New(draw(3, 8, index=index)),
        "offsets": NewLowRank(draw(6, 2, index=index), draw(2, 9, index=index)),
    }
    return Delta(changes, base_of(changes))


def dense(of: Delta) -> dict[str, Tensor]:
    """The entries of every parameter, in float64."""
    return {name: change.dense().double() for name, change in of.changes.items()}


def flat(of: Delta, frame: Frame) -> Tensor:
    """All entries in the order of the frame, in float64; zeros where nothing changes."""
    found = dense(of)
    parts = [found.get(name, torch.zeros(shape)).reshape(-1).double() for name, shape in frame.shapes.items()]
    return torch.cat(parts)


def travelled(codec: Codec, of: Delta, frame: Frame) -> Delta:
    """What arrives."""
    payload = codec.encode(of, frame, seed=3, key="test")
    return codec.decode(payload, frame, cap=CAP, seed=3, key="test")
