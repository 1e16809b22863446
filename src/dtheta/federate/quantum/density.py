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
from dtheta.federate.quantum.noise import Kraus, probability
from dtheta.federate.quantum.statevector import State, apply, qubits_of, require_qubits

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
    """Run a circuit, with a channel on every wire of a gate after it.

    Raises:
        ShapeMismatch: The density matrix is of other qubits than the circuit.
        ConfigError: As ``channel``.
    """
    require_qubits(rho.flatten(1), 2 * circuit.qubits)
    for gate, wires in circuit.operations(angles):
        twins = [wire + circuit.qubits for wire in wires]
        doubled = apply(apply(rho.flatten(1), gate, wires), gate.conj(), twins)
        rho = doubled.unflatten(1, rho.shape[1:])
        if noise is not None:
            for wire in wires:
                rho = channel(rho, noise, wire)
    return rho


def channel(rho: Density, kraus: Kraus, wire: int) -> Density:
    """Apply a channel to one qubit.

    Raises:
        ConfigError: The operators are no channel of one qubit, or there is no such wire.
    """
    n = qubits_of(rho)
    _require_channel(kraus)
    if not 0 <= wire < n:
        raise ConfigError(f"wire is {wire}; expected 0 .. {n - 1}")
    both = torch.einsum("kij,klm->iljm", kraus, kraus.conj()).flatten(2).flatten(0, 1)
    return apply(rho.flatten(1), both.to(rho), (wire, wire + n)).unflatten(1, rho.shape[1:])


def _require_channel(kraus: Kraus) -> None:
    if not isinstance(kraus, Tensor) or kraus.shape[1:] != (2, 2):
        found = tuple(kraus.shape) if isinstance(kraus, Tensor) else f"a {type(kraus).__name__}"
        raise ConfigError(
            f"the channel is {found}; expected Kraus operators (K, 2, 2), such as depolarizing(p).kraus()"
        )
    total = (kraus.mH @ kraus).sum(0)
    if not torch.allclose(total, torch.eye(2).to(total), atol=1e-5):
        raise ConfigError("the Kraus operators K do not add up to a channel: sum K^H K is not the identity")


def depolarize(rho: Density, strength: float) -> Density:
    """Return (1 - strength) rho + strength 1/D, on the whole register.

    Raises:
        ConfigError: The strength is no number from 0 to 1.
    """
    probability(strength, "strength")
    size = rho.shape[-1]
    mixed = torch.eye(size, dtype=rho.dtype, device=rho.device) / size
    return (1 - strength) * rho + strength * mixed


def outcomes(rho: Density) -> Float[Tensor, "B D"]:
    """Return the probability of every outcome: the diagonal."""
    return torch.diagonal(rho, dim1=1, dim2=2).real
