"""Terms of stacked parameters: a product of factors for each slice, such as each expert of a layer.

    D[e] = c (L[e] diag(s[e]) R[e] - L0[e] diag(s0[e]) R0[e])

What multiplies slice by slice has no single layer behind which a term could act, so the displacement is made a matrix
and added to the parameter. Its factors train all the same.

Shape legend: D (E, m, n), L (E, m, r), R (E, r, n), s (E, r); N examples, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dtheta.adapt.term import FactoredTerm, Term
from dtheta.core.change import Change
from dtheta.core.stacked import Stacked
from dtheta.core.tangents import Direct, Tangent
from dtheta.errors import UnsupportedLayer


class StackedTerm(FactoredTerm):
    """A ``FactoredTerm`` for every slice, with all factors in three dimensions and the core in two."""

    by_entries = True
    product = Term.product
    transposed = Term.transposed
    rows = Term.rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """E, m and n."""
        return len(self.left), self.left.shape[1], self.right.shape[2]

    def triple(self) -> None:
        """Return None: no layer has this term behind it."""

    def matrix(self) -> Tensor:
        """Return D (E, m n)."""
        left, right = self.pair()
        return (left @ right).flatten(1)

    def added(self, weight: Tensor, factor: float) -> Tensor:
        """Return a parameter (E, m, n) plus ``factor`` times D in its dtype, without D beside it in memory."""
        left, right = self.pair()
        dtype = wider(weight, left)
        total = torch.baddbmm(weight.to(dtype), left.to(dtype), right.to(dtype), alpha=factor)
        return total.to(weight.dtype)

    def is_zero(self) -> bool:
        """Tell whether D is zero throughout; one slice at a time is made."""
        return not any(bool((left @ right).any()) for left, right in zip(*self.pair(), strict=True))

    def _product(self, left: Tensor, right: Tensor, core: Tensor | None) -> Change:
        return Stacked(left, right, core)

    def tangents(self, inputs: Tensor, gradients: Tensor, transposed: bool = False) -> list[Tangent]:
        """Return dL = c G R^T s, dR = c s L^T G, ds = c diag(L^T G R^T) of each slice, from G (N, O, 1, E m n)."""
        if inputs.shape[2] or transposed:
            raise UnsupportedLayer("a stacked term takes the derivatives by the entries of its parameter")
        left, right = self.left.detach().to(gradients), self.right.detach().to(gradients)
        core = left.new_ones(right.shape[:2]) if self.core is None else self.core.detach().to(gradients)
        weights = (core * self.scale)[:, None]
        by_entry = gradients.flatten(2).unflatten(2, (len(left), left.shape[1], right.shape[2]))
        met = by_entry @ right.mT  # (N, O, E, m, r)
        found: dict[str, Tensor] = {
            "left": met * weights,
            "right": (left * weights).mT @ by_entry,
            "core": self.scale * (left * met).sum(-2),
        }
        return self._trained({name: Direct(values.flatten(2)) for name, values in found.items()})


def wider(weight: Tensor, term: Tensor) -> torch.dtype:
    """Return the dtype in which a term is added to a weight."""
    # eight-bit floats have no common dtype with others; they are narrower than any term
    return term.dtype if weight.dtype.itemsize == 1 else torch.promote_types(weight.dtype, term.dtype)


def factored(left: Tensor, right: Tensor, core: Tensor | None = None, **settings: Any) -> FactoredTerm:
    """Return the term of these factors, of a matrix or of a stack; ``settings`` are those of ``FactoredTerm``."""
    return (StackedTerm if left.ndim == 3 else FactoredTerm)(left, right, core, **settings)
