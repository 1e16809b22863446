"""Weighed random features: psi phi(scale h) + bias, linear in what is trained.

FEATURES, the part of a name that says which features they are, reads

    FUNCTION,mCOUNT,seedSEED[,PROJECTION][,thresholdNUMBER][,scaleNUMBER]

and leaves out what is as it mostly is: orthogonal, 0, 1. The projection is drawn from the seed and never stored. All
networks of one width share it.

Shape legend: d features of h, f random features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.inserted.network import Network
from dtheta.core.features import Draws, RandomFeatures
from dtheta.errors import FormatError

_CODE = re.compile(
    r"(?P<function>[a-z]+),m(?P<count>\d+),seed(?P<seed>-?\d+)(,(?P<projection>gaussian|orthogonal|sobol))?"
    r"(,threshold(?P<threshold>[-+.e\d]+))?(,scale(?P<scale>[-+.e\d]+))?"
)


@dataclass(frozen=True)
class FeatureMap:
    """Which features, of an h of any width; see ``RandomFeatures``.

    Attributes:
        function: Of the features.
        count: Number of draws.
        seed: Of the draws.
        projection: How the rows are drawn.
        threshold: ReLU's lower bound.
        scale: Factor of h.
    """

    function: str
    count: int
    seed: int
    projection: str = "orthogonal"
    threshold: float = 0.0
    scale: float = 1.0

    @property
    def code(self) -> str:
        """The map as a part of names in a delta."""
        rare = [("", self.projection, "orthogonal"), ("threshold", self.threshold, 0.0), ("scale", self.scale, 1.0)]
        rest = "".join(f",{field}{found}" for field, found, usual in rare if found != usual)
        return f"{self.function},m{self.count},seed{self.seed}{rest}"

    @classmethod
    def read(cls, code: str) -> FeatureMap:
        """Return the map that a name tells of.

        Raises:
            FormatError: If it tells of none.
        """
        found = _CODE.fullmatch(code)
        try:
            if found is None:
                raise ValueError
            threshold, scale = float(found["threshold"] or 0.0), float(found["scale"] or 1.0)
            projection = found["projection"] or "orthogonal"
            if not (math.isfinite(scale) and scale > 0):  # as the method itself requires
                raise ValueError
            return cls(found["function"], int(found["count"]), int(found["seed"]), projection, threshold, scale)
        except ValueError:
            raise FormatError(
                f"{code!r} names no random features; expected FUNCTION,mCOUNT,seedSEED, as in 'relu,m16,seed0'"
            ) from None

    def at(self, width: int) -> RandomFeatures:
        """Return the features of an h (..., width)."""
        fields = {"projection": self.projection, "threshold": self.threshold}
        return RandomFeatures(self.function, width, self.count, self.seed, bias=False, **fields)


class WeighedFeatures(Network):
    """Random features of h, weighed; ``code`` names them.

    Raises:
        FormatError: If it names none.
    """

    def __init__(self, code: str) -> None:
        self.map = FeatureMap.read(code)
        self._draws: dict[tuple[int, torch.dtype, torch.device], Draws] = {}

    def __call__(self, h: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what is added to h (..., d)."""
        return F.linear(self.phi(h), parts["psi"], parts.get("bias"))

    def phi(self, h: Tensor) -> Tensor:
        """Return the features (..., f) of h (..., d)."""
        x = h if self.map.scale == 1.0 else h * self.map.scale
        features = self.map.at(h.shape[-1])
        return features.phi(x, self._drawn(features, x))

    def _drawn(self, features: RandomFeatures, x: Tensor) -> Draws:
        """Return the draws in the dtype and on the device of h, made once."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        key = (features.inputs, dtype, x.device)
        if key not in self._draws:
            with torch.inference_mode(False):  # else none of them could ever take part in training
                self._draws[key] = features.draws(dtype, x.device)
        return self._draws[key]

    def shapes(self, width: int, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of psi, and of the bias if there is one."""
        psi: dict[str, tuple[int, ...]] = {"psi": (width, self.map.at(width).width)}
        return psi | ({"bias": (width,)} if "bias" in found else {})
