"""The bottleneck of Houlsby et al. 2019 (arXiv 1902.00751): up f(down h + down_bias) + up_bias.

In a delta it is its four parts, which is what sums and multiples act on: half of a bottleneck is not half of what it
adds, as it is no linear function of them.

Shape legend: d features of h, r hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.inserted.network import Network
from dtheta.errors import UnsupportedLayer, did_you_mean

Activation = Literal["gelu", "relu", "tanh", "silu"]
_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh, "silu": F.silu,
}  # fmt: skip


class Bottleneck(Network):
    """A network of one hidden layer; ``code`` names its function.

    Raises:
        UnsupportedLayer: For an unknown function, as of a delta of a later version.
    """

    def __init__(self, code: str) -> None:
        if code not in _FUNCTIONS:
            raise UnsupportedLayer(f"{code!r} is no known function of a bottleneck{did_you_mean(code, _FUNCTIONS)}")
        self.function = _FUNCTIONS[code]

    def __call__(self, h: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return what is added to h (..., d)."""
        hidden = self.function(F.linear(h, parts["down"], parts["down_bias"]))
        return F.linear(hidden, parts["up"], parts["up_bias"])

    def shapes(self, width: int, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the four parts."""
        r = (found.get("down") or (0,))[0]
        return {"down": (r, width), "down_bias": (r,), "up": (width, r), "up_bias": (width,)}
