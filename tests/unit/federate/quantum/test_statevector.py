"""Gates, circuits and layers against explicit matrices; unitarity; gradients of the permutation."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.quantum.circuit import Circuit, Gate
from dtheta.federate.quantum.gates import FIXED, TURNED, fixed, turned
from dtheta.federate.quantum.layers import Layers, strongly_entangling
from dtheta.federate.quantum.measure import expectation_z
from dtheta.federate.quantum.statevector import apply, cnots, permute, zero_state
from tests.unit.federate.quantum.plain import circuit_matrix, full_matrix, kron_all, random_angles, random_state

GATES = [
    ("RX", 0), ("RY", 2), ("RZ", 1), ("H", 3), ("X", 0), ("Y", 1), ("Z", 2), ("S", 3), ("CNOT", 2, 0), ("CZ", 1, 3),
    ("SWAP", 0, 3), ("CRX", 3, 1), ("CRY", 0, 2), ("CRZ", 2, 1), Gate("RX", (1,), angle=0.3), ("RY", 0),
]  # fmt: skip


@pytest.mark.parametrize("name", [*FIXED, *TURNED])
def test_every_gate_is_unitary(name):
    gate = fixed(name, torch.complex128) if name in FIXED else turned(name, torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(gate @ gate.mH, torch.eye(len(gate), dtype=gate.dtype), atol=1e-15, rtol=0)


@pytest.mark.parametrize("axis", "XYZ")
def test_a_rotation_is_the_exponential_of_its_pauli_matrix(axis):
    angle = torch.tensor(1.3, dtype=torch.float64)
    exact = torch.linalg.matrix_exp(-0.5j * angle * fixed(axis, torch.complex128))
    torch.testing.assert_close(turned(f"R{axis}", angle), exact, atol=1e-15, rtol=0)


@pytest.mark.parametrize("wires", [(0,), (2,), (0, 1), (2, 0), (1, 3), (3, 0, 2)])
def test_a_gate_on_any_wires_is_its_full_matrix(wires):
    gate = torch.linalg.qr(random_state(2 * len(wires), 1, "gate").view(2 ** len(wires), -1)).Q
    state = random_state(4, 3)
    torch.testing.assert_close(apply(state, gate, wires), state @ full_matrix(gate, wires, 4).mT)


def test_full_matrix_is_the_kronecker_product_for_neighbors():
    gate, one = fixed("CNOT", torch.complex128), torch.eye(2, dtype=torch.complex128)
    assert torch.equal(full_matrix(gate, (1, 2), 4), kron_all([one, gate, one]))


def test_gates_of_every_row_are_those_rows():
    angles, state = random_angles((3,)), random_state(3, 3)
    gates = turned("CRY", angles)
    rows = [apply(state[i : i + 1], gates[i], (2, 0))[0] for i in range(3)]
    torch.testing.assert_close(apply(state, gates, (2, 0)), torch.stack(rows))
    torch.testing.assert_close(apply(state[:1], gates, (2, 0))[0], rows[0])


def test_a_circuit_of_all_gates_is_the_product_of_its_matrices():
    circuit, state = Circuit(4, GATES), random_state(4, 3)
    angles = random_angles(circuit.shape)
    assert circuit.shape == (7,) and circuit.four_term.tolist() == [False] * 3 + [True] * 3 + [False]
    torch.testing.assert_close(circuit(angles, state), state @ circuit_matrix(circuit, angles).mT)
    batch = random_angles((3, 7), "rows")
    rows = [circuit(batch[i], state[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(circuit(batch, state), torch.stack(rows))


@pytest.mark.parametrize("circuit", [
    strongly_entangling(1, 2), strongly_entangling(2, 3), strongly_entangling(3, 4), strongly_entangling(5, 5),
    Layers(4, 2, "YZ"), Layers(4, 3, "Y"), Layers(3, 2, "XYZ", (2, 1)),
], ids=lambda c: f"{c.qubits}-{c.rotations}")  # fmt: skip
def test_the_fast_layers_are_the_gates_one_by_one_and_unitary(circuit):
    angles, state = random_angles(circuit.shape), random_state(circuit.qubits, 3)
    exact = circuit_matrix(circuit, angles)
    found = circuit(angles, state)
    torch.testing.assert_close(found, state @ exact.mT)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(exact @ exact.mH, torch.eye(len(exact), dtype=exact.dtype))


def test_the_ranges_are_pennylanes():
    assert strongly_entangling(4, 5).ranges == (1, 2, 3, 1, 2)
    assert strongly_entangling(1, 2).ranges == (1, 1)


def test_gradients_of_the_fast_layers_are_numerical_ones_to_second_order():
    circuit = strongly_entangling(3, 2)
    weight = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)

    def value(angles):
        return expectation_z(circuit(angles, random_state(3, 2))) @ weight

    angles = random_angles(circuit.shape).requires_grad_()
    assert torch.autograd.gradcheck(value, angles)
    assert torch.autograd.gradgradcheck(lambda a: value(a)[0], angles)


def test_derivatives_forward_and_vectorized_are_those_backward():
    circuit, state = strongly_entangling(3, 2), random_state(3, 2)
    angles = random_angles(circuit.shape)
    backward = torch.func.jacrev(lambda a: expectation_z(circuit(a, state)))(angles)
    forward = torch.func.jacfwd(lambda a: expectation_z(circuit(a, state)))(angles)
    torch.testing.assert_close(forward, backward)


def test_a_ring_of_cnots_is_their_product_and_its_inverse_undoes_it():
    pairs = ((0, 2), (1, 0), (2, 1))
    source, inverse = cnots(3, pairs)
    state, exact = random_state(3, 2), torch.eye(8, dtype=torch.complex128)
    for pair in pairs:
        exact = full_matrix(fixed("CNOT", torch.complex128), pair, 3) @ exact
    moved = permute(state, (source, inverse))
    torch.testing.assert_close(moved, state @ exact.mT)
    assert torch.equal(permute(moved, (inverse, source)), state)


def test_zero_state_is_all_zeros_outcome():
    assert zero_state(2, 2).tolist() == [[1, 0, 0, 0]] * 2


@pytest.mark.parametrize("gates", [[("RXX", 0)], [("CNOT", 0)], [("CNOT", 1, 1)], [("H", 2)], [("H", -1)]])
def test_a_circuit_that_cannot_be_meant_is_refused(gates):
    with pytest.raises(ConfigError):
        Circuit(2, gates)


def test_wrong_angles_and_sizes_are_refused():
    with pytest.raises(ShapeMismatch, match="expected 1"):
        Circuit(1, [("RX", 0)])(torch.zeros(2), zero_state(1))
    with pytest.raises(ShapeMismatch, match=r"\(2, 3, 3\)"):
        strongly_entangling(3, 2)(torch.zeros(2, 3), zero_state(3))
    for make in (lambda: strongly_entangling(0, 1), lambda: strongly_entangling(27, 1), lambda: Layers(3, 1, "A")):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError, match="ranges"):
        strongly_entangling(3, 2, (3, 1))
    with pytest.raises(ConfigError, match="takes no angle"):
        Gate("H", (0,), 0.1)


def test_a_state_of_other_qubits_is_refused():
    layers, circuit = Layers(2, 1), Circuit(2, [("RX", 0), ("CNOT", 0, 1)])
    for state in (torch.ones(4, 2) + 0j, zero_state(3, 2), torch.ones(4) + 0j):
        with pytest.raises(ShapeMismatch, match="2 qubits"):
            layers(torch.zeros(layers.shape), state)
        with pytest.raises(ShapeMismatch, match="2 qubits"):
            circuit(torch.zeros(1), state)


def test_angles_and_states_of_two_precisions_meet_in_the_wider():
    layers, circuit = strongly_entangling(3, 2), Circuit(3, [("RX", 0), ("CNOT", 0, 1), ("CRZ", 1, 2)])
    for run in (layers, circuit):
        angles = random_angles(run.shape)
        wanted = run(angles, zero_state(3, 1, torch.complex128))
        for found in (run(angles, zero_state(3)), run(angles.float(), zero_state(3, 1, torch.complex128))):
            assert found.dtype == torch.complex128
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
