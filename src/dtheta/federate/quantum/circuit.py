"""Circuits of any gates, in order; every rotation takes the next angle, or has one of its own.

    Circuit(2, [("RY", 0), ("CNOT", 0, 1), ("CRZ", 1, 0), Gate("RX", (1,), angle=0.3)])      2 angles

Gates without angle: H X Y Z S CNOT CZ SWAP. With: RX RY RZ, and CRX CRY CRZ, whose first wire is the control.
``Layers`` is the faster form for a layered circuit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dtheta.errors import ConfigError, ShapeMismatch, did_you_mean
from dtheta.federate.quantum.gates import FIXED, TURNED, fixed, turned
from dtheta.federate.quantum.statevector import State, apply, check_qubits, require_qubits


class Ansatz(Protocol):
    """A circuit with angles: what runs on states, density matrices and trajectories alike."""

    @property
    def qubits(self) -> int:
        """Return n."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the angles."""
        ...

    @property
    def four_term(self) -> Bool[Tensor, ...]:
        """Tell of every angle whether it needs the four-term shift rule."""
        ...

    def __call__(self, angles: Tensor, state: State) -> State:
        """Run on a state."""
        ...

    def operations(self, angles: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Yield every gate's matrix and wires."""
        ...


@dataclass(frozen=True)
class Gate:
    """A gate on some wires; ``angle`` fixes that of a rotation, None takes the next parameter."""

    name: str
    wires: tuple[int, ...]
    angle: float | None = None

    def __post_init__(self) -> None:
        size = TURNED.get(self.name) or FIXED.get(self.name)
        if size is None:
            raise ConfigError(f"there is no gate {self.name!r}{did_you_mean(self.name, [*TURNED, *FIXED])}")
        if len(self.wires) != size or len(set(self.wires)) != size:
            raise ConfigError(f"{self.name} acts on {size} different wire(s); found {self.wires}")
        if self.angle is not None and self.name not in TURNED:
            raise ConfigError(f"{self.name} takes no angle; found {self.angle}")

    @property
    def free(self) -> bool:
        """Tell whether the gate takes a parameter."""
        return self.name in TURNED and self.angle is None


class Circuit:
    """A circuit of any gates."""

    def __init__(self, qubits: int, gates: Sequence[Gate | tuple]) -> None:
        """Check and keep the gates: ``Gate``, or (name, wire, ...).

        Raises:
            ConfigError: An unknown gate, or wires that are not there.
        """
        self.qubits = check_qubits(qubits)
        self.gates = [g if isinstance(g, Gate) else Gate(g[0], tuple(g[1:])) for g in gates]
        for i, gate in enumerate(self.gates):
            if not all(0 <= wire < qubits for wire in gate.wires):
                raise ConfigError(f"gate {i}, {gate.name}, is on wires {gate.wires}; expected 0 .. {qubits - 1}")

    @property
    def shape(self) -> tuple[int]:
        """Return (number of angles,)."""
        return (sum(gate.free for gate in self.gates),)

    @property
    def four_term(self) -> Bool[Tensor, " P"]:
        """Tell which angles need the four-term shift rule: those of controlled rotations."""
        return torch.tensor([len(gate.wires) == 2 for gate in self.gates if gate.free], dtype=torch.bool)

    def __call__(self, angles: Float[Tensor, "*B P"], state: State) -> State:
        """Run the circuit on a state (B, 2^n), with angles (P,), or (B, P) for angles of every row.

        Raises:
            ShapeMismatch: The number of angles is another one, or the state is of other qubits.
        """
        require_qubits(state, self.qubits)
        for matrix, wires in self.operations(angles):
            state = apply(state, matrix, wires)
        return state

    def operations(self, angles: Float[Tensor, "*B P"]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Yield every gate's matrix, (2^k, 2^k) or (B, 2^k, 2^k), and its wires."""
        if angles.shape[-1:] != self.shape:
            raise ShapeMismatch(f"the angles have shape {tuple(angles.shape)}; expected {self.shape[0]} in a row")
        free = iter(angles.unbind(-1))
        for gate in self.gates:
            if gate.name in FIXED:
                yield fixed(gate.name, angles.dtype.to_complex()).to(angles.device), gate.wires
            else:
                angle = next(free) if gate.angle is None else angles.new_tensor(gate.angle)
                yield turned(gate.name, angle), gate.wires
