"""A delta as ternary integers that can be summed securely: on entries that all clients share, with one scale.

    support   k of the P entries of the frame, drawn from (seed, round); the same for everybody
    nearest   t_i = sign(d_i) [|d_i| > scale / 2]
    stochastic  t_i = sign(d_i) with probability min(1, |d_i| / scale), without bias up to the scale
    mean      scale / K sum_k t_k

What a client's own largest entries are would tell something of it, and supports that differ do not add up in one ring;
hence the common one, where ComPEFT (arXiv 2311.13171) lets every vector choose. What was not sent, off the support or
by rounding, is for error feedback: delta - dequantize(quantize(delta)). All clients count alike: weights by the number
of examples would have to be part of the integers.

Shape legend: P entries of a frame, k of a support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from dtheta.adapt.fields import settle_fields
from dtheta.core.arguments import number, whole
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator, permutation
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.frame import Frame


@dataclass(frozen=True)
class Secure:
    """How deltas become ternary integers, and how many clients must last for their sum.

    Attributes:
        scale: What one unit is worth; the same for all clients and entries. About the size of the larger entries of a
            delta: see `typical_scale`.
        density: k / P, share of the entries that are sent in a round.
        threshold: Clients that must last to the end of a sum; more than two thirds if None.
        rounding: "nearest", or "stochastic", which has no bias and more noise.
    """

    scale: float
    density: float = 0.05
    threshold: int | None = None
    rounding: Literal["nearest", "stochastic"] = "nearest"

    def __post_init__(self) -> None:
        settle_fields(self)
        if number(self.scale, "scale") <= 0:
            raise ConfigError(f"scale is {self.scale}; expected a number above 0, such as a typical entry of a delta")
        if not 0 < number(self.density, "density") <= 1:
            raise ConfigError(f"density is {self.density}; expected a share above 0, at most 1")
        if self.threshold is not None:
            whole(self.threshold, "threshold", least=2)

    def support(self, frame: Frame, seed: int, round: int) -> Int[Tensor, " k"]:
        """Return the entries of a round, increasing int64."""
        order = permutation(frame.numel, generator(seed, f"federate/{round}/support"))
        return order[: self.count(frame)].sort().values

    def count(self, frame: Frame) -> int:
        """Return k; at least 1."""
        return min(frame.numel, max(1, math.ceil(self.density * frame.numel)))

    def bound(self, frame: Frame) -> float:
        """Return scale sqrt(k), the largest norm of what one client adds: the clip of `Privacy` beside a secure sum."""
        return self.scale * math.sqrt(self.count(frame))

    def quantize(self, delta: Delta, frame: Frame, support: Tensor, *, seed: int, key: str) -> Int[Tensor, " k"]:
        """Return the ternary integers (k,), int32, of a delta on a support.

        Args:
            delta: Of the frame, with what was left before.
            frame: What travels.
            support: Of the round.
            seed: With ``key``, names the draws of stochastic rounding.
            key: Such as "federate/3/client".

        Raises:
            UnknownParameter, ShapeMismatch, UnsupportedLayer, BaseMismatch, NonFinite: If it is not of the frame.
        """
        units = picked(delta, frame, support) / self.scale
        if self.rounding == "nearest":
            kept = units.abs() > 0.5
        else:
            drawn = torch.rand(len(units), dtype=torch.float64, generator=generator(seed, f"{key}/rounding"))
            kept = drawn < units.abs()
        return (units.sign() * kept).to(torch.int32)

    def dequantize(self, integers: Tensor, frame: Frame, support: Tensor) -> Delta:
        """Return scale times integers as a delta of every parameter of the frame, zero off the support; float32.

        Raises:
            ShapeMismatch: If there are more or fewer integers than entries of the support.
        """
        if integers.shape != support.shape:
            raise ShapeMismatch(f"{tuple(integers.shape)} integers do not fit {tuple(support.shape)} entries")
        values = torch.zeros(frame.numel).index_put_((support,), (self.scale * integers.double()).float())
        changes = {name: frame.change(name, values[a:b].clone()) for name, (a, b) in frame.spans.items()}
        return Delta(changes, frame.base, Provenance("dequantize", settings={"scale": self.scale}))


def typical_scale(delta: Delta, frame: Frame, support: Tensor, share: float = 0.2) -> float:
    """Return the mean magnitude of the largest ``share`` of a delta's entries on a support: a scale for `Secure`.

    A number that says something of the delta: take it from one that is public, such as the last global change.
    """
    magnitudes = picked(delta, frame, support).abs()
    return float(magnitudes.topk(max(1, round(share * len(magnitudes)))).values.mean())


def picked(delta: Delta, frame: Frame, support: Tensor) -> Tensor:
    """Return the entries of a delta on a support, (k,) float64; zero where it changes nothing."""
    frame.require(delta)
    values = torch.zeros(len(support), dtype=torch.float64)
    for name, (start, stop) in frame.spans.items():
        low, high = torch.searchsorted(support, torch.tensor([start, stop])).tolist()
        if name in delta and low < high:
            values[low:high] = delta[name].dense().flatten()[support[low:high] - start].double().cpu()
    return values
