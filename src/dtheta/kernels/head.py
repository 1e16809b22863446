"""SNNK head: from a pooled vector straight to labels, in place of pooler, nonlinearity and classifier.

    logits = U Phi(h) + c [+ L h]

The classifier stands on the features, and Psi is absorbed in it: the simplest bundle, whose U is solved and not trained
(closed_form.py).

Shape legend: N examples, d pooled features, C classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dtheta.core.features import RandomFeatures
from dtheta.kernels.closed_form import Head, Loss, solve_head
from dtheta.kernels.ridge import rows
from dtheta.kernels.snnk import SNNKLayer


class SNNKHead(SNNKLayer):
    """A head on random features; it stands where a model's own linear head stood."""

    @classmethod
    def solved(
        cls,
        features: RandomFeatures,
        pooled: Float[Tensor, "N d"],
        targets: Tensor,
        loss: Loss = "mse",
        ridge: float | None = None,
        *,
        skip: bool = False,
    ) -> tuple[SNNKHead, Head]:
        """Return the head of least loss on examples, and what ``solve_head`` says of it.

        Args:
            features: Configuration of Phi.
            pooled: What the head gets of each example.
            targets: Class ids (N,), or numbers (N, D) for "mse".
            loss: "mse" or "logistic".
            ridge: lambda; None chooses it.
            skip: Whether the pooled vector stands beside its features.

        Raises:
            ConfigError, ShapeMismatch, NonFinite, NotConverged: As ``solve_head``.
        """
        x = rows(pooled, features.inputs, "pooled vectors")
        # of targets that are none, which solve_head refuses, nothing is asked here
        outputs = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1 if targets.numel() else 1
        head = cls(features, outputs, skip=skip, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        found = solve_head(head.columns(x), targets, loss, ridge)
        head.assign(found.weight, found.bias)
        return head, found
