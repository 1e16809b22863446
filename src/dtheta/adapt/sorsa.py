"""SORSA: train the principal singular triplets and keep their vectors orthonormal.

    output = W x + c (B diag(S) A - B0 diag(S0) A0) x,   A0 = V_r^T, S0 = S_r, B0 = U_r,   c = 1 unless alpha is given
    L_reg  = (1 / N) sum over layers ( ||A A^T - I||_F + ||B^T B - I||_F ),   N = number of A and B matrices
    dL_reg/dA = (2 / N) (A A^T - I) A / ||A A^T - I||_F,   likewise for B;  S is free

Cao 2024, arXiv 2409.00055. The norms are not squared. The paper's update is W <- W - eta_t grad L - gamma_t grad L_reg;
as in its released code, (gamma / lr) grad L_reg is added to the gradient once per optimizer step, after clipping, with
lr the highest rate, so that the schedule scales both. Under AdamW gamma is therefore no step size: it matters only
relative to the task gradient.

The released trainer passes the term through a backward that divides by the number of accumulated batches; the paper
does not say so: its gamma 4e-4 at 64 accumulated batches acts like 4e-4 / 64 = 6.25e-6 here. To reproduce a
released run, divide its gamma by its accumulation.

At the start ||A A^T - I|| is rounding noise, and its direction noise of unit size; below ``NOISE`` the term is left
out.

Shape legend: W (m, n), A (r, n), B (m, r), S (r,).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from dtheta.adapt.lora import scaling
from dtheta.adapt.method import Method
from dtheta.adapt.pissa import continued, principal
from dtheta.adapt.stacked import factored
from dtheta.adapt.term import FactoredTerm, Term
from dtheta.core.change import Change
from dtheta.core.selection import Site
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter

# Frobenius distance from orthonormal per sqrt(r) that float32 factors have by rounding alone.
NOISE = 1e-5


@dataclass(frozen=True)
class SORSA(Method):
    """Singular values and orthonormal regularized singular vectors adaptation.

    Attributes:
        rank: r.
        gamma: Strength of the regularizer, in units of the learning rate (see the module's docstring).
        alpha: Scaling c = alpha / r; None for c = 1.
        accuracy: Relative accuracy of the singular values at the start; None for the fast sketch.
    """

    rank: int = 16
    gamma: float = 4e-4
    alpha: float | None = None
    accuracy: float | None = 1e-5

    summary: ClassVar[str] = "trains principal singular triplets, kept orthonormal"
    paper: ClassVar[str] = "2409.00055"

    def terms(self, sites: Sequence[Site], seed: int) -> dict[str, Term]:
        """Return terms with B, S, A the leading singular triplets."""
        self._check_gamma()
        scale = scaling(self.rank, self.alpha, rslora=False)
        found = principal(sites, self.rank, self.accuracy, seed)
        terms: dict[str, Term] = {}
        for key, svd in found.items():
            core = svd.S / scale
            start = (svd.U, svd.Vh, core.clone())
            terms[key] = factored(svd.U.clone(), svd.Vh.clone(), core, scale=scale, start=start)
        return terms

    def restore(self, site: Site, change: Change) -> Term:
        """Return the term that goes on from a stored change, with the same start subtracted."""
        self._check_gamma()
        return continued(change, self.rank, scaling(self.rank, self.alpha, rslora=False), with_core=True)

    def _check_gamma(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ConfigError(f"gamma must be zero or a positive number, found {self.gamma}")

    def add_gradient(self, adapter: Adapter, lr: float) -> None:
        """Add (gamma / lr) times the closed-form gradient of the regularizer to ``.grad``."""
        if self.gamma == 0.0:
            return
        factors = list(orthonormal_factors(adapter))
        weight = self.gamma / lr / sum(_matrices(parameter) for parameter, _ in factors)
        for parameter, rows in factors:
            gradient = orthonormality_gradient(parameter.detach() if rows else parameter.detach().mT)
            gradient = weight * (gradient if rows else gradient.mT)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def orthonormal_factors(adapter: Adapter) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield every factor that should be orthonormal, one for all slices of a stack, and whether by rows or columns."""
    for term in adapter.terms.values():
        if isinstance(term, FactoredTerm):
            yield term.right, True
            yield term.left, False


def _matrices(factor: Tensor) -> int:
    """Return how many A or B matrices a factor is."""
    return len(factor) if factor.ndim == 3 else 1


def departure(rows_RN: Tensor) -> Tensor:
    """Return M M^T - I (..., r, r) for matrices M (..., r, n) that should have orthonormal rows."""
    gram = rows_RN @ rows_RN.mT
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return gram


def orthonormality_gradient(rows_RN: Tensor) -> Tensor:
    """Return the gradient (..., r, n) of each ||M M^T - I||_F; zero where that norm is rounding noise."""
    gram = departure(rows_RN)
    distance = torch.linalg.matrix_norm(gram, keepdim=True)
    gradient = (2.0 / distance.clamp_min(1e-30)) * (gram @ rows_RN)
    return torch.where(distance > NOISE * math.sqrt(gram.shape[-1]), gradient, torch.zeros_like(gradient))


def orthonormality(adapter: Adapter) -> float:
    """Return L_reg: the mean over all A and B of the Frobenius distance of their Gram matrix from the identity."""
    distances = [
        float(distance)
        for p, rows in orthonormal_factors(adapter)
        for distance in torch.linalg.matrix_norm(departure(p.detach() if rows else p.detach().mT)).flatten()
    ]
    return sum(distances) / len(distances) if distances else 0.0
