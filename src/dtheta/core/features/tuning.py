"""The features of least variance for a batch: balance al, tilt and A in closed form.

With X and W the mean squares of |x| and |w|, and s the mean of |al x + w/al|^2 over all pairs:

    al    al^4 = W/X; for gaussian with a one-sided split, p = al^2 X (al^2 = W/p for w-trig) and q = X W,
          p = sqrt(q^2 + q) - q, which minimizes (1 - 2p)^(-1/2) exp(q / p)
    tilt  s/2, since F exp(omega s / 2) is the best density of frequencies; tanh takes the largest s of all pairs, so
          that all are finite
    A     (1/r - 1)/8,  r = 2d / (sqrt((2S + d)^2 + 8 d S) + 2S + d),  S the mean of |Re(u + v)|^2

They minimize E|Z|^2, Z = Lam_g(u) Lam_g(v), which is the second moment averaged over the phase exp(i omega b), times 2.
At one b, and at small norms, another choice may be better: `RandomFeatures.variance` tells. The A is that of FAVOR++
(Likhosherstov et al. 2022, arXiv 2302.00787); for functions of many frequencies S is taken at their mean, each by what
it adds to the second moment. A positive A divides the s of tilt by (1 + 8A)/(1 + 4A).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from dtheta.core.features.random_features import RandomFeatures
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch


def best_A(energy: float, inputs: int) -> float:
    """Return the A that minimizes E|Lam_g(u) Lam_g(v)|^2 at |Re(u + v)|^2 = ``energy``, g of length ``inputs``."""
    trace = 2 * energy + inputs
    r = 2 * inputs / (math.sqrt(trace * trace + 8 * inputs * energy) + trace)  # the usual form is 0/0 at energy 0
    return (1 / r - 1) / 8


def features_of(function: str, x: Tensor, W: Tensor, count: int, **options: Any) -> RandomFeatures:
    """Return the features whose balance, tilt and A fit a batch of inputs and the weights best.

    Args:
        function: As in `RandomFeatures`; ``inputs`` is the last dimension of W.
        x: (..., d), examples of the inputs.
        W: (l, d), the weights.
        count: Number m of draws.
        **options: Other fields of `RandomFeatures`; a balance, tilt or A given here is kept.

    Raises:
        ConfigError: If the variance is infinite for a pair of these: for tanh where |al x + w/al|^2 is pi or more, for
            gaussian with a one-sided split where al |x| (or |w| / al) is sqrt(1/2) or more.
        ShapeMismatch: If x and W are of different lengths.
        NonFinite: If x or W are empty, or hold NaN or infinity.
    """
    inputs = W.shape[-1]
    if x.dim() == 0 or W.dim() != 2 or x.shape[-1] != inputs:
        raise ShapeMismatch(f"x is {tuple(x.shape)} and W {tuple(W.shape)}; expected x (..., d) and W (l, d)")
    features = RandomFeatures(function, inputs, count, **options)
    if features.spectrum is None:
        return features
    batch = _Batch(x.detach().reshape(-1, inputs).double(), W.detach().double())
    for field, best in (("balance", batch.balance), ("tilt", batch.tilt), ("A", batch.A)):
        if field not in options:
            features = dataclasses.replace(features, **{field: best(features)})
    batch.refuse_infinite(features)
    return features


class _Batch:
    """What features are fitted to."""

    def __init__(self, x: Tensor, W: Tensor) -> None:
        self.x, self.W = x, W
        self.xx, self.ww = (float(part.square().sum(1).mean()) for part in (x, W))
        if not (math.isfinite(self.xx) and math.isfinite(self.ww)):
            raise NonFinite("x or W are empty or hold NaN or infinity; expected finite examples and weights")
        self.xw = float(x.mean(0) @ W.mean(0))

    def balance(self, features: RandomFeatures) -> float:
        if not (self.xx and self.ww):
            return 1.0
        if features.function == "gaussian" and features.split != "symmetric":
            q = self.xx * self.ww
            p = math.sqrt(q * q + q) - q
            return math.sqrt(p / self.xx) if features.split == "x-trig" else math.sqrt(self.ww / p)
        return (self.ww / self.xx) ** 0.25

    def tilt(self, features: RandomFeatures) -> float:
        spectrum = features.spectrum
        if spectrum is None or not spectrum.drawn or features.split != "symmetric":
            return 0.0
        if features.function != "tanh":
            return self._mean(features.balance) * _ratio(features) / 2
        largest = self._largest(features) * _ratio(features)
        if largest >= math.pi:
            raise ConfigError(_infinite(features, largest, 0.0))
        return largest / 2

    def refuse_infinite(self, features: RandomFeatures) -> None:
        spectrum = features.spectrum
        if spectrum is None or not spectrum.drawn:
            return
        linear, quadratic = 0.0, 0.0
        if features.split == "symmetric":
            linear = self._largest(features) * _ratio(features)
        else:
            side, scale = (self.x, features.balance) if features.split == "x-trig" else (self.W, 1 / features.balance)
            quadratic = float(side.square().sum(1).max()) * scale**2
        if not spectrum.finite(torch.tensor(linear), torch.tensor(quadratic), features.tilt):
            raise ConfigError(_infinite(features, linear, quadratic))

    def A(self, features: RandomFeatures) -> float:
        al2, spectrum = features.balance**2, features.spectrum
        if features.split == "x-trig":
            return best_A(self.ww / al2, features.inputs)
        if features.split == "w-trig":
            return best_A(self.xx * al2, features.inputs)
        s = self._mean(features.balance)
        if spectrum is not None and not spectrum.real:  # |Re sqrt(i omega)|^2 = omega / 2
            s *= spectrum.mean_frequency(s, features.tilt) / 2
        return best_A(s, features.inputs)

    def _mean(self, balance: float) -> float:
        return max(0.0, balance**2 * self.xx + self.ww / balance**2 + 2 * self.xw)

    def _largest(self, features: RandomFeatures) -> float:
        al = features.balance
        squares = (self.W / al).square().sum(1)
        return max(
            float((al**2 * part.square().sum(1, keepdim=True) + squares + 2 * part @ self.W.mT).max())
            for part in torch.split(self.x, 4096)
        )


def _ratio(features: RandomFeatures) -> float:
    return (1 + 4 * features.A) / (1 + 8 * features.A)


def _infinite(features: RandomFeatures, linear: float, quadratic: float) -> str:
    if features.function == "tanh":
        limit = math.pi / 2 + features.tilt if features.tilt else math.pi
        return (
            f"tanh has infinite variance for these inputs and weights: the largest |al x + w/al|^2 is {linear:.4g}; "
            f"expected less than {limit:.4g}. Scale inputs or weights down, or use gelu, sin or relu"
        )
    return (
        f"{features.function} with the {features.split} split has infinite variance for these inputs and weights: the "
        f"largest squared norm on the trigonometric side is {quadratic:.4g}; expected less than 0.5. Use "
        "split='symmetric'"
    )
