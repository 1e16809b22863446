"""The fast way for fully connected rectifier networks without biases, in whose kernels lengths are a mere factor.

    nngp = f |x| |x'| rho,   ntk = f |x| |x'| theta,          rho = theta = cos(x, x') behind the first Dense

and an activation ``a min(x, 0) + b max(x, 0)`` with the Dense behind it makes of them

    rho   <- r sqrt(1 - rho^2) + (1 - r t) rho          t = acos rho,   r = (a - b)^2 / (pi (a^2 + b^2))
    theta <- (1 - r t) theta + rho                      f <- f W_std^2 (a^2 + b^2) / 2         (rho: the new one)

(Cho and Saul 2009, Section 2.3, for ReLU, r = 1/pi). No variances of layers are needed, and all runs in place in four
arrays of a tile. A cosine of exactly 1 stays one, so that an example with itself is exact at any depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.kernels.infinite.activation import ARelu
from dtheta.kernels.infinite.dense import Dense
from dtheta.kernels.infinite.layer import Layer, Serial


@dataclass(frozen=True)
class Cosines:
    """What the recursion needs: r of every activation, and the factor f of the whole network."""

    ratios: tuple[float, ...]
    factor: float

    def recursion(self, rho: Tensor, ntk: bool) -> tuple[Tensor, Tensor | None]:
        """Return rho and theta behind the last layer from the cosines of the inputs, which are overwritten."""
        theta = rho.clone() if ntk else None
        sine, slope, one = torch.empty_like(rho), torch.empty_like(rho), rho.new_ones(())
        for ratio in self.ratios:
            rho.clamp_(-1, 1)
            torch.acos(rho, out=slope)
            torch.add(one, slope, alpha=-ratio, out=slope)
            torch.addcmul(one, rho, rho, value=-1, out=sine).sqrt_()
            rho.mul_(slope).add_(sine, alpha=ratio)
            if theta is not None:
                torch.addcmul(rho, theta, slope, out=theta)
        return rho, theta


def cosines(spec: Layer, inputs: int) -> Cosines | None:
    """Return the recursion of a network over vectors of ``inputs`` numbers, or None for a network of another form."""
    layers = list(_leaves(spec))
    dense, activations = layers[::2], layers[1::2]
    if len(layers) % 2 == 0 or not all(isinstance(layer, Dense) and layer.b_std == 0 for layer in dense):
        return None
    if not all(isinstance(layer, ARelu) and (layer.negative or layer.positive) for layer in activations):
        return None
    factor, ratios = 1 / inputs, []
    for layer in layers:
        if isinstance(layer, Dense):
            factor *= layer.W_std**2
        elif isinstance(layer, ARelu):
            square = layer.negative**2 + layer.positive**2
            factor *= square / 2
            ratios.append((layer.negative - layer.positive) ** 2 / (math.pi * square))
    return Cosines(tuple(ratios), factor)


def _leaves(spec: Layer) -> Iterator[Layer]:
    for layer in spec.layers if isinstance(spec, Serial) else (spec,):
        yield from _leaves(layer) if isinstance(layer, Serial) else (layer,)
