"""Lyapunov exponents and vectors of a flow: how fast small errors grow, and in which directions.

    Q_{t+1} R_{t+1} = DM(x_t) Q_t          DM: exact derivative of one step, R upper triangular with positive diagonal
    exponent_i      = mean of log R_ii / dt

(Benettin et al. 1980, Meccanica 15). The columns of Q converge to the backward Lyapunov vectors: the first is the
direction into which every small perturbation of the past has turned by now, the first n span the space of the n fastest
growing ones. Bred vectors of small amplitude end in that space (Toth and Kalnay 1997), which is what tests ask of them.

Shape legend: K variables, N directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch

#: A state (K,) and directions (N, K) at it, one step later: the directions times the derivative of the step.
Tangent: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Lyapunov:
    """What ``lyapunov`` found.

    Attributes:
        state: the last state (K,).
        vectors: the N leading backward Lyapunov vectors there (K, N), orthonormal.
        exponents: growth rates (N,) in one over a time unit, descending where converged.
    """

    state: Tensor
    vectors: Tensor
    exponents: Tensor

    @property
    def growing(self) -> int:
        """How many exponents are positive."""
        return int((self.exponents > 0).sum())


def lyapunov(
    tangent: Tangent,
    state_K: Tensor,
    steps: int,
    *,
    count: int | None = None,
    dt: float = 1.0,
    seed: int = 0,
) -> Lyapunov:
    """Follow a trajectory and the tangent directions along it.

    Args:
        tangent: one step of a state (K,) and of N directions (N, K) along it, such as ``Lorenz96().tangent``.
        state_K: where the trajectory starts; float64 is advised.
        steps: how many; the first fifth is not counted for the exponents.
        count: N; all K by default.
        dt: time units of one step.
        seed: of the directions to start from.

    Raises:
        ShapeMismatch: for a state that is no vector.
        ConfigError: for a count that does not fit.
    """
    if state_K.ndim != 1:
        raise ShapeMismatch(f"the state is {tuple(state_K.shape)}; expected one vector (K,)")
    variables, total = state_K.numel(), whole(steps, "steps", least=1)
    wanted = variables if count is None else whole(count, "count", least=1)
    if wanted > variables:
        raise ConfigError(f"count is {wanted}; a state of {variables} variables has as many directions at most")
    drawn = torch.randn(variables, wanted, generator=generator(seed, "lyapunov"), dtype=state_K.dtype)
    x, Q, logs = state_K, torch.linalg.qr(drawn).Q, []
    for _ in range(total):
        x, moved_NK = tangent(x, Q.T)
        Q, R = torch.linalg.qr(moved_NK.T)
        diagonal = R.diagonal()
        Q = Q * diagonal.sign()
        logs.append(diagonal.abs().log())
    kept = torch.stack(logs[total // 5 :])
    return Lyapunov(x, Q, kept.mean(0) / dt)
