"""Unlearning by climbing the loss, plainly or with weights that keep it from running away.

    GradAscent   -CE_f
    GradDiff     -CE_f + retain CE_r                      ConceptVectors: retain = 1.5
    WGA          -mean_f( p^beta CE )                     p: probability of the token, detached   (Wang et al. 2025)
    UNDIAL       CE_f against softmax(z0 - beta onehot)   z0: logits of the original              (Dong et al. 2024)

GradAscent has no floor: its loss falls without end while the model falls apart, so it needs the stop rule most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.probe.unlearning.objective import Retaining, Side


@dataclass(frozen=True)
class GradAscent(Retaining):
    """Gradient ascent on the forget examples; ``retain`` and ``kl`` are 0."""

    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return -CE."""
        return -forget.ce


@dataclass(frozen=True)
class GradDiff(GradAscent):
    """Gradient ascent on what is to be forgotten, descent on what is to be kept."""

    retain: float = 1.5


@dataclass(frozen=True)
class WGA(Retaining):
    """Gradient ascent weighted by the tokens' probabilities: what is forgotten already pulls no more.

    Attributes:
        beta: Power of the probability.
    """

    beta: float = 1.0
    retain: float = 1.0

    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return -mean(p^beta CE)."""
        weights_A = (-self.beta * forget.losses_A.detach()).exp()
        return -(weights_A * forget.losses_A).mean()


@dataclass(frozen=True)
class UNDIAL(Retaining):
    """Distillation from the original with the true token's logit lowered.

    Attributes:
        beta: By how much it is lowered.
    """

    beta: float = 10.0

    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return the cross entropy to the lowered original."""
        now, original_AV = forget.now, forget.original.logits_AV
        lowered_AV = original_AV.scatter_add(1, now.target_A[:, None], torch.full_like(original_AV[:, :1], -self.beta))
        return -(lowered_AV.softmax(-1) * now.logits_AV.log_softmax(-1)).sum(-1).mean()
