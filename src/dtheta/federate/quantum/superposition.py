"""Derivatives from superposed programs: the server prepares a state, the client runs the chip and measures.

    branch       (|0>|o(t + pi/2 e_j)> + |1>|o(t - pi/2 e_j)>) / sqrt 2       <Z (x) M> = df/dt_j
    all          sum_j |j> branch_j / sqrt P                                  P <|j><j| (x) Z (x) M> = df/dt_j
    derivative   d|o>/dt_j = |o(t + pi e_j)> / 2                              df/dt_j = Re <o|K|o(t + pi e_j)>

Daskin 2024 (arXiv 2401.13421) names shift rule and superposition; the circuits are ours. They hold for Pauli rotations
with an angle each, and for f that is not divided by the success probability. One shot of "all" shows one derivative, so
P derivatives to the same accuracy take P times the shots of one.

Shape legend: P angles, D = 4^n amplitudes of a program, N = 2^n, B rows.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.federate.quantum.chip import amplitudes, outcomes
from dtheta.federate.quantum.layers import Layers
from dtheta.federate.quantum.measure import draw
from dtheta.federate.quantum.program import program_of
from dtheta.federate.quantum.shift import shifted
from dtheta.federate.quantum.statevector import State

_SIGNS = torch.tensor([1.0, -1.0])  # of Z on the branch qubit


def branch_state(circuit: Layers, angles: Tensor, index: int) -> Complex[Tensor, "2 D"]:
    """Return the branch state of one angle, by its place in ``angles.flatten()``; 2n + 1 qubits.

    Raises:
        ConfigError: There is no such angle.
    """
    if not 0 <= whole(index, "index") < angles.numel():
        raise ConfigError(f"index is {index}; expected one of the {angles.numel()} angles")
    sides = [program_of(circuit, shifted(angles, index, sign * math.pi / 2)) for sign in (1, -1)]
    return torch.stack(sides) / math.sqrt(2)


def branch_states(circuit: Layers, angles: Tensor) -> Complex[Tensor, "P 2 D"]:
    """Return the state of all branches; ceil(log2 P) + 1 + 2n qubits, the unused indices left out."""
    count = angles.numel()
    return torch.stack([branch_state(circuit, angles, j) for j in range(count)]) / math.sqrt(count)


def derivative_states(circuit: Layers, angles: Tensor) -> Complex[Tensor, "P D"]:
    """Return |o(t + pi e_j)> of every angle, each of length 1: twice the derivative of |o>."""
    return torch.stack([program_of(circuit, shifted(angles, j, math.pi)) for j in range(angles.numel())])


def branch_gradient(
    branches: Complex[Tensor, "P 2 D"], psi: State, observable: Float[Tensor, " N"]
) -> Float[Tensor, "P B"]:
    """Return df/dt of every angle and row: the exact expectations in the state of all branches."""
    shown = outcomes(branches, psi)
    return len(branches) * torch.einsum("jsbr,s,r->jb", shown, _SIGNS.to(shown), observable.to(shown))


def derivative_gradient(
    program: Complex[Tensor, " D"], derivatives: Complex[Tensor, "P D"], psi: State, observable: Float[Tensor, " N"]
) -> Float[Tensor, "P B"]:
    """Return df/dt of every angle and row from derivative states."""
    y, dy = amplitudes(program, psi), amplitudes(derivatives, psi)
    return torch.einsum("br,jbr,r->jb", y.conj(), dy, observable.to(y)).real


def sampled_gradient(
    branches: Complex[Tensor, "P 2 D"],
    psi: State,
    observable: Float[Tensor, " N"],
    shots: int,
    generator: torch.Generator,
) -> Float[Tensor, "P B"]:
    """Return df/dt as S shots a row of the state of all branches show it, without bias.

    A shot in which the chip fails counts as 0: f is the value before the division by the success probability.

    Raises:
        ConfigError: ``shots`` is no whole number above 0.
    """
    shown = outcomes(branches, psi).double().movedim(2, 0)
    failed = (1 - shown.flatten(1).sum(1, keepdim=True)).clamp_min(0)
    counts = draw(torch.cat([shown.flatten(1), failed], 1), shots, generator)[:, :-1].view(shown.shape)
    total = torch.einsum("bjsr,s,r->jb", counts.double(), _SIGNS.double(), observable.double())
    return (len(branches) * total / shots).to(branches.dtype.to_real())
