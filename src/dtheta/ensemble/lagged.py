"""Lagged ensembles: members are forecasts that started earlier, from older analyses.

    member k at lead t = forecast from the analysis k steps before the start, at its own lead t + k

(Hoffman and Kalnay 1983, Tellus A 35.) No perturbation is drawn, so the spread of such an ensemble tells how the errors
of a deterministic network grow: networks are compared by it (Brenowitz et al. 2025, "A practical probabilistic
benchmark for AI weather models"). A member's draw is its lag; draw 0 is the newest forecast.

Shape legend: B rows, ... the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.ensemble.perturbation import Advance, Perturbation, Rows, Start
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class Lagged(Perturbation):
    """Forecasts from the ``lags`` analyses before the start, beside that from the start itself.

    Attributes:
        lags: the longest lag in steps, 1 or more; an ensemble of one network has ``lags`` + 1 members.
    """

    lags: int = 4

    def __post_init__(self) -> None:
        """Raise ConfigError for lags that cannot be meant."""
        whole(self.lags, "lags", least=1)

    @property
    def past(self) -> int:  # type: ignore[override]
        """How many analyses before the start it needs."""
        return self.lags

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return how older forecasts differ from the analysis (B, ...)."""
        return self.states(start, rows, advance) - start.state

    def states(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the forecasts (B, ...) valid at the start.

        Raises:
            ConfigError: for a member of another sign than 1, or with a longer lag.
        """
        for member in rows.members:
            if member.sign != 1 or member.draw > self.lags:
                raise ConfigError(f"{member}: a lagged ensemble has draws 0 to {self.lags}, the lags, and sign 1")
        lags = torch.tensor([member.draw for member in rows.members], device=start.state.device)
        shape = (-1, *[1] * start.state.ndim)
        x = start.state.expand(len(rows), *start.state.shape)
        for k in range(int(lags.max()), -1, -1):
            x = torch.where((lags == k).reshape(shape), start.before(k), x)  # the others wait, and are not looked at
            if k:
                x = advance(x.contiguous(), -k)
        return x

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"name": "Lagged", "lags": self.lags}
