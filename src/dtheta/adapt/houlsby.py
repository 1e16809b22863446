"""Houlsby adapters: a bottleneck behind attention and behind the MLP of every block. The baseline of SNNK.

    h <- h + W_up f(W_down h + a) + b        W_down (r, d) ~ N(0, std^2),   a, W_up, b zero at the start

Houlsby et al. 2019, arXiv 1902.00751, whose networks start near the identity with both matrices drawn at std 0.01 or
below; here W_up is zero, so the start is the identity. The layer norms beside them stay frozen (the paper trains them;
also="*.LayerNorm.*" does). Trained: 2 d r + r + d numbers a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dtheta.adapt.inserted.bottleneck import Activation
from dtheta.adapt.inserted.method import InsertedMethod
from dtheta.adapt.inserted.names import Address
from dtheta.adapt.inserted.places import Place, Placement
from dtheta.adapt.prompts.method import check_counts
from dtheta.adapt.prompts.sources import Vectors
from dtheta.adapt.term import Term
from dtheta.core.seeds import generator, normal
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class Houlsby(InsertedMethod):
    """Bottleneck adapters.

    Attributes:
        size: r, hidden units.
        function: Of the hidden units.
        std: Of W_down at the start.
        placement: Behind attention, behind the MLP, or both.
    """

    size: int = 48
    function: Activation = "gelu"
    std: float = 0.01
    placement: Placement = "both"

    summary: ClassVar[str] = "a bottleneck network behind attention and MLP of every block (baseline)"
    paper: ClassVar[str] = "1902.00751"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, size=1)
        if not (math.isfinite(self.std) and self.std > 0):
            raise ConfigError(f"{self.name}: std must be a positive number, found {self.std}")

    def parameters(self, width: int) -> int:
        """Return the number of parameters of one network behind an output of ``width`` features."""
        return 2 * width * self.size + self.size + width

    def vectors(self, place: Place, seed: int) -> dict[str, Term]:
        """Return the four parts of one network."""
        where = Address(place.path, "houlsby", self.function)
        down = normal((self.size, place.width), self.std, generator(seed, f"Houlsby/{place.path}/down"))
        rest = {"down_bias": (self.size,), "up": (place.width, self.size), "up_bias": (place.width,)}
        parts = {"down": down} | {part: down.new_zeros(shape) for part, shape in rest.items()}
        return {where.name(part): Vectors(values) for part, values in parts.items()}
