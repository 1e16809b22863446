"""Plain references: every gate as an explicit 2^n x 2^n matrix, in float64."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.federate.quantum.gates import fixed


def kron_all(matrices: list[Tensor]) -> Tensor:
    return functools.reduce(torch.kron, matrices)


def full_matrix(gate: Tensor, wires: tuple[int, ...], qubits: int) -> Tensor:
    """Entry by entry: <i|U|j> is the gate's where all other bits agree, else 0."""
    size, total = 2**qubits, torch.zeros(2**qubits, 2**qubits, dtype=gate.dtype)
    place = [qubits - 1 - wire for wire in wires]
    others = sum(1 << q for q in range(qubits)) & ~sum(1 << p for p in place)
    for i in range(size):
        for j in range(size):
            if i & others == j & others:
                row, column = (int("".join(str((k >> p) & 1) for p in place), 2) for k in (i, j))
                total[i, j] = gate[row, column]
    return total


def pauli_matrix(string: str) -> Tensor:
    return kron_all([fixed(letter, torch.complex128) for letter in string])


def circuit_matrix(circuit, angles: Tensor) -> Tensor:
    total = torch.eye(2**circuit.qubits, dtype=torch.complex128)
    for gate, wires in circuit.operations(angles):
        total = full_matrix(gate, wires, circuit.qubits) @ total
    return total


def random_state(qubits: int, batch: int, name: str = "state", dtype=torch.complex128) -> Tensor:
    draws = generator(0, name)
    state = torch.randn(batch, 2**qubits, dtype=dtype, generator=draws)
    return state / state.norm(dim=1, keepdim=True)


def random_angles(shape: tuple[int, ...], name: str = "angles") -> Tensor:
    return 3 * torch.randn(shape, dtype=torch.float64, generator=generator(1, name))
