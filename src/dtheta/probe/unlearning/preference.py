"""Unlearning by preference: the forget sequences are made less likely than the original finds them, and no further.

    NPO      -(2 / beta) mean log sigmoid( beta (S_f - S0_f) )                             (Zhang et al. 2024)
    SimNPO   -(2 / beta) mean log sigmoid( beta (S_f / length - delta) )                   (Fan et al. 2024)
    DPO      -(2 / beta) mean log sigmoid( beta ((S_f - S_r) - (S0_f - S0_r)) )            (Rafailov et al. 2023)

S = -log pi of a sequence, S0 that of the original, f forget, r retain. The pull fades once a sequence is unlikely, so
these do not fall apart as gradient ascent does. In DPO the retain example is the one preferred, as in
ConceptVectors (arXiv 2406.11614): there are no "I don't know" answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dtheta.core.arguments import number
from dtheta.errors import ConfigError
from dtheta.probe.unlearning.objective import Retaining, Side


@dataclass(frozen=True)
class _Preference(Retaining):
    """A loss through a log-sigmoid.

    Attributes:
        beta: Inverse temperature.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: If beta is not positive, or another number negative.
        """
        super().__post_init__()
        if number(self.beta, "beta") <= 0:
            raise ConfigError(f"{type(self).__name__}: beta is {self.beta}; expected a number above 0")

    def _of(self, gain_B: Tensor) -> Tensor:
        return -(2.0 / self.beta) * logsigmoid(self.beta * gain_B).mean()


@dataclass(frozen=True)
class NPO(_Preference):
    """Negative preference optimization."""

    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return the loss of sequences that are still as likely as for the original."""
        return self._of(forget.sums_B(forget.losses_A - forget.original_losses_A))


@dataclass(frozen=True)
class SimNPO(_Preference):
    """NPO by the mean over tokens, without the original.

    Attributes:
        delta: Loss per token that counts as forgotten.
        weight: Weight of the forgetting term; that of the retain examples is ``retain``.
    """

    beta: float = 4.5
    retain: float = 1.0
    delta: float = 0.0
    weight: float = 0.125

    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return the weighted loss of sequences that are still likely."""
        per_token_B = forget.sums_B(forget.losses_A) / forget.sums_B(torch.ones_like(forget.losses_A))
        return self.weight * self._of(per_token_B - self.delta)


@dataclass(frozen=True)
class DPO(_Preference):
    """Direct preference optimization: the retain example is preferred to the forget example beside it."""

    def forgetting(self, forget: Side, retain: Side) -> Tensor:
        """Return the loss of pairs that the model does not yet tell apart as it should."""
        now_B = forget.sums_B(forget.losses_A) - retain.sums_B(retain.losses_A)
        original_B = forget.sums_B(forget.original_losses_A) - retain.sums_B(retain.original_losses_A)
        return self._of(now_B - original_B)
