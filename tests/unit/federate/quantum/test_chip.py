"""The chip: its exact simulation against both circuits gate by gate, and its success probability."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.federate.quantum.chip import amplitudes, program_state, run_chip
from dtheta.federate.quantum.chip_circuit import matrix_unit, selector_circuit, teleport_circuit
from tests.unit.federate.quantum.plain import random_state


def random_operator(qubits: int) -> torch.Tensor:
    return torch.randn(2**qubits, 2**qubits, dtype=torch.complex128, generator=generator(0, f"operator {qubits}"))


@pytest.mark.parametrize("qubits", [1, 2, 3])
def test_the_exact_simulation_is_the_circuit_to_1e_12(qubits):
    operator, psi = random_operator(qubits), random_state(qubits, 1)
    size = 2**qubits
    y = operator @ psi[0] / (size**0.5 * operator.norm())
    found = amplitudes(program_state(operator), psi)[0]
    selected = selector_circuit(operator, psi[0])
    for other in (found, teleport_circuit(operator, psi[0]), selected.diagonal()):
        assert (other - y).abs().max() <= 1e-12
    assert (selected - selected.diagonal().diag()).abs().max() <= 1e-12  # rows and data agree


@pytest.mark.parametrize("qubits", [1, 2, 3])
def test_the_success_probability_is_that_of_the_circuit_and_the_formula(qubits):
    operator, psi = random_operator(qubits), random_state(qubits, 3)
    found = run_chip(operator, psi)
    formula = (psi @ operator.mT).norm(dim=1) ** 2 / (2**qubits * operator.norm() ** 2)
    torch.testing.assert_close(found.probability, formula, atol=1e-14, rtol=0)
    literal = torch.stack([selector_circuit(operator, row).norm() ** 2 for row in psi])
    torch.testing.assert_close(found.probability, literal, atol=1e-14, rtol=0)
    torch.testing.assert_close(found.shots, 1 / formula)
    torch.testing.assert_close(found.state.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("qubits", [1, 2, 3, 6])
def test_a_unitary_operator_succeeds_with_one_in_n_squared_so_the_saving_is_gone(qubits):
    unitary = torch.linalg.qr(random_operator(qubits)).Q
    found = run_chip(unitary, random_state(qubits, 2))
    torch.testing.assert_close(found.probability, torch.full((2,), 4.0**-qubits, dtype=torch.float64))


def test_the_papers_example_of_one_qubit():
    a, b, c, d, alpha, beta = 0.3, -0.5, 0.7, 0.2, 0.6, 0.8
    operator = torch.tensor([[a, c], [b, d]], dtype=torch.float64)
    length = operator.norm()
    torch.testing.assert_close(program_state(operator) * length, torch.tensor([a, b, c, d], dtype=torch.float64))
    psi = torch.tensor([[alpha, beta]], dtype=torch.float64)
    y = amplitudes(program_state(operator), psi)[0].real * length * 2**0.5
    torch.testing.assert_close(y, torch.tensor([a * alpha + c * beta, b * alpha + d * beta], dtype=torch.float64))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (2, 1)])
def test_block_encodings_are_unitary(row, column):
    encoded = matrix_unit(row, column, 4)
    assert torch.equal(encoded @ encoded.mH, torch.eye(8, dtype=encoded.dtype))
    assert encoded[:4, :4].nonzero().tolist() == [[row, column]]


def test_an_operator_that_sends_the_data_to_zero_never_succeeds():
    found = run_chip(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0]], dtype=torch.complex64))
    assert found.probability.tolist() == [0] and found.shots.isinf().all() and not found.state.any()


def test_bad_operators_are_refused():
    for bad in (torch.ones(2, 4), torch.ones(3, 3), torch.ones(1, 1)):
        with pytest.raises(ShapeMismatch):
            program_state(bad)
    for empty in (torch.zeros(2, 2), torch.full((2, 2), float("nan"))):
        with pytest.raises(NonFinite):
            program_state(empty)
    with pytest.raises(ShapeMismatch, match="16 amplitudes"):
        run_chip(torch.eye(4), torch.ones(1, 2))
    with pytest.raises(ConfigError, match="3 data qubits"):
        selector_circuit(torch.eye(16), torch.ones(16))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_small_and_large_operators_do_as_their_direction_does(scale):
    operator, psi = random_operator(1).to(torch.complex64), random_state(1, 2).to(torch.complex64)
    wanted, found = run_chip(operator, psi), run_chip(scale * operator, psi)
    torch.testing.assert_close(found.state, wanted.state)
    torch.testing.assert_close(found.probability, wanted.probability)
