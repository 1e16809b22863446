"""PiSSA: train the principal singular vectors.

    W = U S V^T,   A0 = diag(sqrt(S_r / c)) V_r^T,   B0 = U_r diag(sqrt(S_r / c)),   c = alpha / r
    output = W x + c (B A - B0 A0) x,   A and B trained from A0 and B0

Meng, Wang and Zhang 2024, arXiv 2404.02948. The paper freezes the residual W - c B0 A0 in place of W; written as
above the base stays what it is, so switching off, a second adapter, reloading and exporting cannot go wrong. The price
is one more rank-r product, without gradients to weights. Dropout is absent on purpose: dropping principal components
breaks the equality at the start.

Shape legend: W (m, n), A (r, n), B (m, r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.adapt.lora import scaling
from dtheta.adapt.method import Method, check_rank, restored, split_start
from dtheta.adapt.stacked import factored
from dtheta.adapt.term import FactoredTerm, Term
from dtheta.core.change import Change
from dtheta.core.factors import cached_svds
from dtheta.core.lowrank import LowRank
from dtheta.core.selection import Site
from dtheta.core.stacked import Stacked
from dtheta.core.svd import TruncatedSVD
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class PiSSA(Method):
    """Principal singular values and vectors adaptation.

    Attributes:
        rank: r.
        alpha: Scaling c = alpha / r; None for c = 1 (the paper's alpha = r).
        rslora: c = alpha / sqrt(r) instead.
        accuracy: Relative accuracy of the singular values at the start; None for the fast sketch.
    """

    rank: int = 16
    alpha: float | None = None
    rslora: bool = False
    accuracy: float | None = 1e-5

    summary: ClassVar[str] = "trains the principal singular vectors of the weight"
    paper: ClassVar[str] = "2404.02948"

    def terms(self, sites: Sequence[Site], seed: int) -> dict[str, Term]:
        """Return the terms; the factors come from the disk cache when these weights were factored before."""
        found = principal(sites, self.rank, self.accuracy, seed)
        for site in sites:
            _check_not_zero(site, found[site.key])
        return {site.key: self._term(found[site.key]) for site in sites}

    def _term(self, svd: TruncatedSVD) -> FactoredTerm:
        scale = scaling(self.rank, self.alpha, self.rslora)
        return factored(*svd.balanced(scale), scale=scale, subtract_start=True)

    def restore(self, site: Site, change: Change) -> Term:
        """Return the term that goes on from a stored change, with the same start subtracted."""
        return continued(change, self.rank, scaling(self.rank, self.alpha, self.rslora))


def principal(sites: Sequence[Site], rank: int, accuracy: float | None, seed: int) -> dict[str, TruncatedSVD]:
    """Return the leading singular triplets of the weights at all sites, by key; those of all slices of a stack."""
    for site in sites:
        check_rank(site, rank)
    named = {site.key: site.slices() for site in sites}
    every = {name: part for parts in named.values() for name, part in parts.items()}
    found = cached_svds(every, rank, accuracy=accuracy, seed=seed)
    return {
        site.key: _stacked([found[name] for name in named[site.key]]) if site.stacked else found[site.key]
        for site in sites
    }


def _stacked(parts: Sequence[TruncatedSVD]) -> TruncatedSVD:
    """Return the triplets of all slices as U (E, m, r), S (E, r), Vh (E, r, n)."""
    U, S, Vh = (torch.stack([getattr(part, name) for part in parts]) for name in ("U", "S", "Vh"))
    return replace(parts[0], U=U, S=S, Vh=Vh)


def _check_not_zero(site: Site, svd: TruncatedSVD) -> None:
    """Raise for a weight of zeros: with both factors zero, each stops the other's gradient."""
    if not bool(svd.S.any(-1).all()):
        what = "one of its matrices" if site.stacked else "the weight"
        raise ConfigError(
            f"{site.key}: {what} is all zeros, so both factors of PiSSA would be and none could ever train. Use "
            f"LoRA for it, or leave it out with select='...|!{site.name}'"
        )


def continued(change: Change, rank: int, scale: float, with_core: bool = False) -> Term:
    """Return a factored term from stacked factors, or from whatever form the change has by now."""
    halves = split_start(change, rank)
    if halves is None:
        return restored(change)
    now, start = halves
    if with_core:
        core, core0 = (_divided(half, scale) for half in halves)
        return factored(now.left, now.right, core, scale=scale, start=(start.left, start.right, core0))
    if not _is_scale(now, scale) or not _is_scale(start, scale):
        return restored(change)
    return factored(now.left, now.right, scale=scale, start=(start.left, start.right, None))


def _is_scale(half: LowRank | Stacked, scale: float) -> bool:
    """Tell whether the core is c throughout, as rounded when it was stored; the term then keeps c itself."""
    return half.core is not None and torch.equal(half.core, torch.full_like(half.core, scale))


def _divided(half: LowRank | Stacked, scale: float) -> Tensor:
    """Return the core without c, in the dtype of the factors: the very numbers that ``FactoredTerm.change`` took."""
    assert half.core is not None, "split_start"
    return (half.core / scale).to(half.left.dtype)
