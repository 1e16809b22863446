"""Lorenz-96: K variables on a ring, chaotic, cheap; the truth against which ensembles are tested first.

    dx_k/dt = (x_{k+1} - x_{k-2}) x_{k-1} - x_k + F        indices modulo K

(Lorenz 1996, "Predictability: a problem partly solved"; with Emanuel 1998, J. Atmos. Sci. 55). The products conserve
sum x_k^2, the linear term damps and F drives. With K = 40 and F = 8 there are 13 growing directions, and small errors
double in 0.42 time units; 0.05 units stand for 6 hours, by that rate. Steps are classical Runge-Kutta of fourth order.

Shape legend: B states, K variables, T times.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch


@dataclass(frozen=True)
class Lorenz96:
    """The flow; a step is ``dt`` time units long.

    Attributes:
        variables: K, 4 or more.
        forcing: F.
        dt: length of a step in time units; 0.05 stand for 6 hours.
    """

    variables: int = 40
    forcing: float = 8.0
    dt: float = 0.05

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be meant."""
        whole(self.variables, "variables", least=4)
        number(self.forcing, "forcing")
        if number(self.dt, "dt") <= 0:
            raise ConfigError(f"dt is {self.dt!r}; expected a positive number of time units")

    def tendency(self, x_BK: Tensor) -> Tensor:
        """Return dx/dt (..., K)."""
        ahead, behind, two_behind = x_BK.roll(-1, -1), x_BK.roll(1, -1), x_BK.roll(2, -1)
        return (ahead - two_behind) * behind - x_BK + self.forcing

    def step(self, x_BK: Tensor) -> Tensor:
        """Return the states (..., K) one step later, differentiable.

        Raises:
            ShapeMismatch: for states of another number of variables.
        """
        if not x_BK.ndim or x_BK.shape[-1] != self.variables:
            raise ShapeMismatch(f"states are {tuple(x_BK.shape)}; expected (..., {self.variables})")
        h = self.dt
        k1 = self.tendency(x_BK)
        k2 = self.tendency(x_BK + h / 2 * k1)
        k3 = self.tendency(x_BK + h / 2 * k2)
        k4 = self.tendency(x_BK + h * k3)
        return x_BK + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    __call__ = step

    def tangent(self, x_K: Tensor, d_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state (K,) one step later, and the derivative of the step there times the rows of ``d_NK``."""
        h = self.dt
        k1, j1 = self.tendency(x_K), self._derivative(x_K, d_NK)
        x2, d2 = x_K + h / 2 * k1, d_NK + h / 2 * j1
        k2, j2 = self.tendency(x2), self._derivative(x2, d2)
        x3, d3 = x_K + h / 2 * k2, d_NK + h / 2 * j2
        k3, j3 = self.tendency(x3), self._derivative(x3, d3)
        x4, d4 = x_K + h * k3, d_NK + h * j3
        k4, j4 = self.tendency(x4), self._derivative(x4, d4)
        return x_K + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), d_NK + h / 6 * (j1 + 2 * j2 + 2 * j3 + j4)

    def _derivative(self, x_K: Tensor, d_NK: Tensor) -> Tensor:
        """Return the derivative of the tendency at ``x_K`` times the rows of ``d_NK``."""
        slope = x_K.roll(-1, -1) - x_K.roll(2, -1)
        return (d_NK.roll(-1, -1) - d_NK.roll(2, -1)) * x_K.roll(1, -1) + slope * d_NK.roll(1, -1) - d_NK

    def spin_up(
        self, members: int = 1, seed: int = 0, *, steps: int = 1000, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return independent states (members, K) on the attractor.

        Args:
            members: how many; each is drawn by its own key, so the first ones do not depend on how many follow.
            seed: of the draws.
            steps: run before a state counts as one of the attractor.
            dtype: of the states.
        """
        count = whole(members, "members", least=1)
        drawn = [
            torch.randn(self.variables, generator=generator(seed, "lorenz96", i), dtype=dtype) for i in range(count)
        ]
        x = torch.stack(drawn) + self.forcing / 4  # about the mean of the climate
        for _ in range(whole(steps, "steps", least=0)):
            x = self.step(x)
        return x

    def run(self, x_BK: Tensor, steps: int) -> Tensor:
        """Return the states (steps + 1, ..., K), the first being ``x_BK``."""
        states = [x_BK]
        for _ in range(whole(steps, "steps", least=0)):
            states.append(self.step(states[-1]))
        return torch.stack(states)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return asdict(self)
