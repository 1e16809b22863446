"""FedProx: a client is held near the global delta by half the squared length of its move in this round.

    loss + mu/2 ||D||^2,   D = the displacement of this round
    ||L R||^2 = <L^T L, R R^T>       of a product of factors, which is never formed
    ||U diag(s) V^T||^2 = ||s||^2    of a shift of singular values

Li et al. 2020, arXiv 1812.06127. The paper's theta - theta_t is D here, since a term starts at zero on top of the
global delta. What goes on from vectors of its own (prompts) counts by how far these moved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.term import DenseTerm, FactoredTerm, SpectralTerm, Term
from dtheta.fit.objective import model_loss
from dtheta.fit.trainable import Batch, Loss


def squared_norm(term: Term) -> Tensor:
    """Return ||D||^2 of a term as a scalar that can be differentiated, without making factors a matrix."""
    if isinstance(term, FactoredTerm):
        left, right = term.pair()
        return ((left.mT @ left) * (right @ right.mT)).sum()
    if isinstance(term, SpectralTerm):
        return term.shift.square().sum()
    if isinstance(term, DenseTerm):
        return term.values.square().sum()
    return term.matrix().square().sum()


def proximal_loss(adapter: Adapter, loss: Loss | None, strength: float, continued: bool) -> Loss:
    """Return a loss with the proximal term.

    Args:
        adapter: What trains, as it is before the first step.
        loss: That of the data; None for the model's own.
        strength: mu.
        continued: Whether the terms go on from the global delta, so that D is how far they moved.
    """
    start = {name: p.detach().clone() for name, p in adapter.trainable().items()} if continued else {}
    data_loss = loss or model_loss

    def total(model: Any, batch: Batch) -> Tensor:
        if continued:
            moved = [(p - start[name]).square().sum() for name, p in adapter.trainable().items()]
        else:
            moved = [squared_norm(adapter.term(key)) for key in adapter.sites]
        return data_loss(model, batch) + strength / 2 * torch.stack(moved).sum()

    return total
