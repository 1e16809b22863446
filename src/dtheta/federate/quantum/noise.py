"""Noise of devices: channels as Kraus operators, the depolarizing twirl, and Pauli trajectories.

    rho -> sum_k K_k rho K_k^H,   sum_k K_k^H K_k = 1

    depolarizing(p)         (1-p) rho + p/3 (X rho X + Y rho Y + Z rho Z)
    amplitude_damping(g)    K = diag(1, sqrt(1-g)),  sqrt(g) |0><1|
    phase_damping(g)        K = diag(1, sqrt(1-g)),  sqrt(g) |1><1|
    twirl                   rho -> (1-l) rho + l 1/2^n after every layer, so <P> -> (1-l)^layers <P> for P without trace

``density`` runs channels exactly; ``trajectories`` runs Pauli channels on random states whose mean is the density
matrix: its error falls with the square root of their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.errors import ConfigError
from dtheta.federate.quantum.circuit import Ansatz
from dtheta.federate.quantum.gates import fixed
from dtheta.federate.quantum.statevector import State, apply, require_qubits

Kraus = Complex[Tensor, "K 2 2"]


def probability(value: float, what: str) -> float:
    """Return a number in [0, 1].

    Raises:
        ConfigError: It lies outside.
    """
    if not 0 <= number(value, what) <= 1:
        raise ConfigError(f"{what} is {value}; expected a number from 0 to 1")
    return float(value)


@dataclass(frozen=True)
class Pauli:
    """A Pauli channel: X, Y or Z with these probabilities, else nothing."""

    x: float
    y: float
    z: float

    def __post_init__(self) -> None:
        for name in "xyz":
            probability(getattr(self, name), name)
        probability(self.x + self.y + self.z, "the sum of the probabilities of X, Y and Z")

    @property
    def weights(self) -> list[float]:
        """Return the probabilities of I, X, Y and Z."""
        return [max(0.0, 1 - self.x - self.y - self.z), self.x, self.y, self.z]

    def kraus(self) -> Kraus:
        """Return the Kraus operators."""
        return torch.stack(
            [math.sqrt(w) * fixed(p, torch.complex128) for w, p in zip(self.weights, "IXYZ", strict=True)]
        )


def depolarizing(strength: float) -> Pauli:
    """Return the depolarizing channel of one qubit: each Pauli with probability ``strength / 3``."""
    third = probability(strength, "strength") / 3
    return Pauli(third, third, third)


def amplitude_damping(rate: float) -> Kraus:
    """Return the decay of |1> to |0> with probability ``rate``."""
    return _damping(rate, [[0, 1], [0, 0]])


def phase_damping(rate: float) -> Kraus:
    """Return the loss of phase: coherences shrink by sqrt(1 - rate)."""
    return _damping(rate, [[0, 0], [0, 1]])


def twirl(expectations: Float[Tensor, ...], strength: float, layers: int) -> Float[Tensor, ...]:
    """Return expectations of traceless observables after depolarizing the whole register once a layer."""
    return expectations * _kept(strength, layers)


def twirl_outcomes(outcomes: Float[Tensor, "B D"], strength: float, layers: int) -> Float[Tensor, "B D"]:
    """Return the probabilities of outcomes under the same noise: a part of them becomes uniform."""
    kept = _kept(strength, layers)
    return kept * outcomes + (1 - kept) / outcomes.shape[-1]


def _kept(strength: float, layers: int) -> float:
    return (1 - probability(strength, "strength")) ** whole(layers, "layers", least=0)


@torch.no_grad()
def trajectories(
    circuit: Ansatz, angles: Tensor, state: State, noise: Pauli, count: int, generator: torch.Generator
) -> Complex[Tensor, "count*B D"]:
    """Run a circuit ``count`` times with a random Pauli on every wire of a gate after it.

    Returns:
        The final states, trajectory by trajectory; a mean over the trajectories estimates the noisy value. Angles of
        every row, where the circuit takes such, are those of the rows of each trajectory.

    Raises:
        ConfigError: ``count`` is no whole number above 0.
        ShapeMismatch: The state is of other qubits than the circuit.
    """
    require_qubits(state, circuit.qubits)
    rows = max(len(state), len(angles) if angles.ndim > len(circuit.shape) else 1)
    states = state.expand(rows, -1).repeat(whole(count, "count", least=1), 1)
    paulis = torch.stack([fixed(p, state.dtype) for p in "IXYZ"])
    weights = torch.tensor(noise.weights)
    for gate, wires in circuit.operations(angles):
        states = apply(states, gate if gate.ndim == 2 else gate.repeat(count, 1, 1), wires)
        for wire in wires:
            hit = torch.multinomial(weights, len(states), replacement=True, generator=generator)
            if hit.any():
                states = apply(states, paulis[hit], (wire,))
    return states


def _damping(rate: float, jump: list[list[float]]) -> Kraus:
    g = probability(rate, "rate")
    kept = torch.diag(torch.tensor([1, math.sqrt(1 - g)], dtype=torch.complex128))
    return torch.stack([kept, math.sqrt(g) * torch.tensor(jump, dtype=torch.complex128)])
