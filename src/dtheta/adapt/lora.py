"""LoRA: a low-rank displacement that starts at zero. The baseline of every method here.

    W x + c B A x,   A (r, n) ~ U(-1/sqrt(n), 1/sqrt(n)),   B (m, r) = 0,   c = alpha / r  (or alpha / sqrt(r))

Hu et al. 2021, arXiv 2106.09685; the square root from Kalajdzievski 2023, arXiv 2312.03732. ``alpha`` None is c = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dtheta.adapt.method import Method, check_rank, check_weight, restored, working_dtype
from dtheta.adapt.stacked import factored
from dtheta.adapt.term import FactoredTerm, Term
from dtheta.core.change import Change
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator, uniform
from dtheta.core.selection import Site
from dtheta.core.stacked import Stacked
from dtheta.errors import ConfigError, UnsupportedLayer


def scaling(rank: int, alpha: float | None, rslora: bool) -> float:
    """Return c: alpha / r, alpha / sqrt(r) with ``rslora``, and 1 where alpha is None.

    Raises:
        ConfigError: If alpha is not a positive finite number.
    """
    if alpha is None:
        return 1.0
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"alpha must be a positive number, found {alpha}")
    return alpha / math.sqrt(rank) if rslora else alpha / rank


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation.

    Attributes:
        rank: r.
        alpha: Scaling c = alpha / r; None for c = 1.
        rslora: c = alpha / sqrt(r) instead.
        dropout: Probability of dropping inputs of the adapter while training.
    """

    rank: int = 16
    alpha: float | None = None
    rslora: bool = False
    dropout: float = 0.0

    summary: ClassVar[str] = "low-rank displacement that starts at zero (baseline)"
    paper: ClassVar[str] = "2106.09685"

    def term(self, site: Site, seed: int) -> FactoredTerm:
        """Return factors with A drawn by (seed, parameter) and B zero."""
        check_rank(site, self.rank)
        check_weight(site)
        self._check_dropout(site)
        (m, n), scale = site.slice_shape, scaling(self.rank, self.alpha, self.rslora)
        slices = (len(site.tensor),) if site.stacked else ()
        # torch layout: the factor on the input side is drawn. A layer stored as (in, out) has its input on the left.
        fan_in = m if site.input_first else n
        bound = 1 / math.sqrt(fan_in)
        drawn = uniform((*slices, self.rank, fan_in), -bound, bound, generator(seed, f"LoRA/{site.key}"))
        if site.input_first:
            left, right = drawn.mT.contiguous(), drawn.new_zeros(*slices, self.rank, n)
        else:
            left, right = drawn.new_zeros(*slices, m, self.rank), drawn
        left, right = (t.to(site.tensor.device, working_dtype(site.tensor)) for t in (left, right))
        return factored(left, right, scale=scale, dropout=self.dropout)

    def restore(self, site: Site, change: Change) -> Term:
        """Return the term that goes on from a stored change; c is that of the file, where it is one number."""
        if isinstance(change, LowRank | Stacked) and (scale := _one_scale(change)) is not None:
            term: Term = factored(change.left.clone(), change.right.clone(), scale=scale)
        else:
            term = restored(change)
        if isinstance(term, FactoredTerm):  # what trains in full beside the method has no inputs of its own
            self._check_dropout(site)
            term.dropout = self.dropout
        return term

    def _check_dropout(self, site: Site) -> None:
        """Raise unless the inputs of the term at a site can be dropped with this probability."""
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1), found {self.dropout}")
        if self.dropout and not (site.hookable and site.kind in ("linear", "transposed")):
            raise UnsupportedLayer(
                f"{site.key}: dropout={self.dropout} needs a linear layer whose forward alone uses the weight, so that "
                f"the inputs of the term can be dropped; found {_found(site)}. Use dropout=0, or leave it out with "
                f"select='...|!{site.name}'"
            )


def _one_scale(change: LowRank | Stacked) -> float | None:
    """Return the number that stands between the factors throughout, or None where there are several."""
    if change.core is None or not change.core.numel():
        return 1.0
    first = change.core.flatten()[0]
    return None if bool((change.core != first).any()) else float(first)


def _found(site: Site) -> str:
    module = type(site.owners[0].module).__name__
    if site.tied:
        return "a weight that several modules share"
    return f"a weight that another module reads past its {module}" if site.bypassed else f"one of {module}"
