"""SNNK adapters: weighed random features behind attention and behind the MLP of every block.

    square       h <- h + gate * (Psi phi(h))            gate (d,) = 0 at the start
    bottleneck   h <- h + W_up (Psi phi(h)) + b          W_up (d, r) = 0, b (d,) = 0 at the start

Sehanobish et al. 2024, "Scalable Neural Network Kernels", arXiv 2310.13225 (ICLR). phi are the m random features of
``core.features``, Psi starts at psi(W) for a drawn W with d or r rows, and no activation follows. Trained: d m + d
numbers a network: with m = 16, 2.9 and 5.7 times fewer than bottlenecks of 24 and 48 units.

What is added is linear in gate * Psi, or in W_up Psi and b. So that product is what a delta stores, under a name that
tells phi: the sum of two deltas adds what both add, and half of one adds half. This is ours; the released code keeps
gate and Psi apart, whose sums have cross terms. The gate is a device of training: a delta trains on with the product.

Two facts of the gate at zero: the first step moves the gates alone, as they are all that Psi's gradient is made of; and
weight decay would shrink Psi meanwhile, so Psi has none.

Shape legend: d features of h, f random features (m for ReLU), r hidden units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from dtheta.adapt.inserted.method import InsertedMethod
from dtheta.adapt.inserted.names import Address
from dtheta.adapt.inserted.places import Place, Placement
from dtheta.adapt.inserted.random_features import FeatureMap
from dtheta.adapt.prompts.method import check_counts
from dtheta.adapt.prompts.sources import OffsetTable, Vectors
from dtheta.adapt.term import Term
from dtheta.core.change import Change, New
from dtheta.core.seeds import generator, normal, uniform
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter

_STD = 0.02  # BERT's


class Gated(Term):
    """diag(gate) Psi, gate (d,) and Psi (d, f); what is stored is the product."""

    def __init__(self, psi: Tensor) -> None:
        super().__init__()
        self.psi = nn.Parameter(psi)
        self.gate = nn.Parameter(psi.new_zeros(len(psi)))

    def matrix(self) -> Tensor:
        """Return the product (d, f)."""
        return self.gate[:, None] * self.psi

    def change(self) -> Change:
        """Return a copy of the product."""
        return New(self.matrix().detach().clone())


@dataclass(frozen=True)
class SNNK(InsertedMethod):
    """Adapters of scalable neural network kernels.

    Attributes:
        features: m, random draws.
        size: r, rows of Psi in the bottleneck form; None for the square form.
        function: Of the features; see ``core.features``. All but relu want an h of norm about 1: see ``scale``.
        projection: How the draws depend on one another: gaussian, orthogonal or sobol.
        threshold: ReLU's lower bound; below zero lets negative numbers through.
        scale: Factor of h.
        init: The W that Psi starts at: N(0, 0.02^2) as in BERT, or uniform as a linear layer of torch's (kaiming).
        placement: Behind attention, behind the MLP, or both.
    """

    features: int = 16
    size: int | None = None
    function: str = "relu"
    projection: str = "orthogonal"
    threshold: float = 0.0
    scale: float = 1.0
    init: Literal["bert", "kaiming"] = "bert"
    placement: Placement = "both"

    summary: ClassVar[str] = "weighed random features behind attention and MLP of every block"
    paper: ClassVar[str] = "2310.13225"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, features=1, size=1)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"{self.name}: scale must be a positive number, found {self.scale}")
        self._map(0).at(2)  # raises for features that cannot be

    def parameters(self, width: int) -> int:
        """Return the number of parameters of one network behind an output of ``width`` features."""
        features = self._map(0).at(width).width
        if self.size is None:
            return width * features + width
        return self.size * features + width * self.size + width

    def vectors(self, place: Place, seed: int) -> dict[str, Term]:
        """Return Psi at psi(W) with a gate of zeros, or in front of a W_up and a bias of zeros."""
        features = self._map(seed)
        where = Address(place.path, "snnk", features.code)
        psi = features.at(place.width).psi(self._drawn(place, seed))
        if self.size is None:
            return {where.name("psi"): Gated(psi)}
        up, bias = psi.new_zeros(place.width, self.size), psi.new_zeros(place.width)
        return {where.name("psi"): OffsetTable(up, psi), where.name("bias"): Vectors(bias)}

    def parameter_groups(self, adapter: Adapter, lr: float) -> list[dict[str, Any]]:
        """Return Psi without weight decay, and all else; both at ``lr``."""
        tables = [adapter.term(name) for name in adapter.grafts if name.endswith(".psi")]
        rows = [getattr(term, "psi" if isinstance(term, Gated) else "right", None) for term in tables]
        psi = [p for p in rows if isinstance(p, nn.Parameter)]
        rest = [p for p in adapter.trainable().values() if all(p is not own for own in psi)]
        groups = [{"params": psi, "lr": lr, "weight_decay": 0.0, "name": "psi"}, {"params": rest, "lr": lr}]
        return [group for group in groups if group["params"]]

    def _map(self, seed: int) -> FeatureMap:
        return FeatureMap(self.function, self.features, seed, self.projection, float(self.threshold), float(self.scale))

    def _drawn(self, place: Place, seed: int) -> Tensor:
        """Return W (r or d, d)."""
        source, shape = generator(seed, f"SNNK/{place.path}"), (self.size or place.width, place.width)
        if self.init == "bert":
            return normal(shape, _STD, source)
        bound = 1 / math.sqrt(place.width)  # Kaiming's with a = sqrt(5)
        return uniform(shape, -bound, bound, source)
