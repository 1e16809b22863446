"""The chip gate by gate, for up to 3 data qubits: what the exact simulation in ``chip`` is checked against.

    selector   c r select the matrix unit |r><c|, block-encoded with an ancilla, on the data;   H on c;   c = 0, a = 0
    teleport   CNOT c -> x,   x = 0;   H on c,   c = 0

Registers are c (columns, n qubits), r (rows, n), a (ancilla, 1, selector circuit only) and x (data, n). The first is
the circuit of Daskin 2024 (arXiv 2401.13421), the second does the same without block encodings.

Shape legend: N = 2^n.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.federate.quantum.chip import program_state
from dtheta.federate.quantum.gates import fixed
from dtheta.federate.quantum.statevector import apply

MOST_QUBITS = 3


def matrix_unit(row: int, column: int, size: int) -> Complex[Tensor, "2*N 2*N"]:
    """Return the unitary that has |row><column| as its first block: the block encoding with one ancilla."""
    unit = torch.zeros(size, size, dtype=torch.complex128)
    unit[row, column] = 1
    one = torch.eye(size, dtype=unit.dtype)
    return torch.cat([torch.cat([unit, one - unit @ unit.mH], 1), torch.cat([one - unit.mH @ unit, -unit.mH], 1)])


def selector_circuit(operator: Complex[Tensor, "N N"], psi: Complex[Tensor, " N"]) -> Complex[Tensor, "N N"]:
    """Return the amplitudes of success over rows and data (r, x), y on the diagonal and zeros beside it.

    Raises:
        ConfigError: More than 3 data qubits.
    """
    n, size = _sizes(operator)
    program = program_state(operator.to(torch.complex128)).view(size, size)
    blocks = torch.stack([torch.stack([matrix_unit(r, c, size) for r in range(size)]) for c in range(size)])
    data = torch.cat([psi.to(torch.complex128), torch.zeros(size)])  # the ancilla is 0
    chosen = program[:, :, None] * (blocks @ data)
    turned = _hadamards(chosen.flatten()[None], n)
    return turned.view(size, size, 2, size)[0, :, 0]


def teleport_circuit(operator: Complex[Tensor, "N N"], psi: Complex[Tensor, " N"]) -> Complex[Tensor, " N"]:
    """Return y, the amplitudes of success over the rows.

    Raises:
        ConfigError: More than 3 data qubits.
    """
    n, size = _sizes(operator)
    state = torch.kron(program_state(operator.to(torch.complex128)), psi.to(torch.complex128))[None]
    for qubit in range(n):
        state = apply(state, fixed("CNOT", state.dtype), (qubit, 2 * n + qubit))
    return _hadamards(state, n).view(size, size, size)[0, :, 0]


def _hadamards(state: Tensor, count: int) -> Tensor:
    for qubit in range(count):
        state = apply(state, fixed("H", state.dtype), (qubit,))
    return state


def _sizes(operator: Tensor) -> tuple[int, int]:
    size = len(operator)
    if size > 2**MOST_QUBITS:
        raise ConfigError(f"the circuit is for up to {MOST_QUBITS} data qubits; for {size} x {size} take chip.run_chip")
    return size.bit_length() - 1, size
