"""Exact density matrices of up to 6 qubits, under any channel of one qubit.

    rho_ij is the state of 2n qubits with amplitudes rho_(i,j): a gate U is U on the first n and conj(U) on the last n,
    a channel sum_k K_k (x) conj(K_k) on a qubit and its twin

Shape legend: B batch, D = 2^n, n qubits.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.federate.quantum.circuit import Ansatz
from dtheta.federate.quantum.noise import Kraus
from dtheta.federate.quantum.statevector import State, apply, qubits_of

MOST_QUBITS = 6
Density = Complex[Tensor, "B D D"]


def density(state: State) -> Density:
    """Return |s><s|.

    Raises:
        ConfigError: More than 6 qubits.
    """
    if qubits_of(state) > MOST_QUBITS:
        raise ConfigError(
            f"a density matrix of {qubits_of(state)} qubits is not made; expected at most {MOST_QUBITS}, beyond that "
            "take noise.trajectories or noise.twirl"
        )
    return state[:, :, None] * state[:, None, :].conj()


def evolve(circuit: Ansatz, angles: Tensor, rho: Density, noise: Kraus | None = None) -> Density:
    """Run a circuit, with a channel on every wire of a gate after it."""
    for gate, wires in circuit.operations(angles):
        twins = [wire + circuit.qubits for wire in wires]
        doubled = apply(apply(rho.flatten(1), gate, wires), gate.conj(), twins)
        rho = doubled.unflatten(1, rho.shape[1:])
        if noise is not None:
            for wire in wires:
                rho = channel(rho, noise, wire)
    return rho


def channel(rho: Density, kraus: Kraus, wire: int) -> Density:
    """Apply a channel to one qubit."""
    n = qubits_of(rho)
    both = torch.einsum("kij,klm->iljm", kraus, kraus.conj()).flatten(2).flatten(0, 1)
    return apply(rho.flatten(1), both.to(rho), (wire, wire + n)).unflatten(1, rho.shape[1:])


def depolarize(rho: Density, strength: float) -> Density:
    """Return (1 - strength) rho + strength 1/D, on the whole register."""
    size = rho.shape[-1]
    mixed = torch.eye(size, dtype=rho.dtype, device=rho.device) / size
    return (1 - strength) * rho + strength * mixed


def outcomes(rho: Density) -> Float[Tensor, "B D"]:
    """Return the probability of every outcome: the diagonal."""
    return torch.diagonal(rho, dim1=1, dim2=2).real
