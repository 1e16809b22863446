"""Expectations against matrices; shots against their law; parameter shift against autograd."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite
from dtheta.federate.quantum.circuit import Circuit
from dtheta.federate.quantum.layers import strongly_entangling
from dtheta.federate.quantum.measure import (
    ReadOut,
    apply_pauli,
    draw,
    expectation,
    expectation_z,
    probabilities,
    sampled,
    sampled_z,
    z_values,
)  # fmt: skip
from dtheta.federate.quantum.shift import parameter_shift
from tests.unit.federate.quantum.plain import kron_all, pauli_matrix, random_angles, random_state

STRINGS = ["ZII", "IXY", "YYZ", "XYX", "III", "YIY"]


@pytest.mark.parametrize("string", STRINGS)
def test_pauli_strings_are_their_matrices(string):
    state, matrix = random_state(3, 4), pauli_matrix(string)
    torch.testing.assert_close(apply_pauli(state, string), state @ matrix.mT)
    exact = torch.einsum("bi,ij,bj->b", state.conj(), matrix, state)
    torch.testing.assert_close(expectation(state, string), exact.real)


def test_z_of_every_qubit_is_its_string():
    state = random_state(3, 4)
    exact = torch.stack([expectation(state, s) for s in ("ZII", "IZI", "IIZ")], 1)
    torch.testing.assert_close(expectation_z(state), exact)


@pytest.mark.parametrize("string", STRINGS)
def test_shots_have_the_mean_and_variance_of_the_law(string):
    state, shots, runs = random_state(3, 1), 50, 2000
    exact = float(expectation(state, string)[0])
    found = sampled(state.repeat(runs, 1), string, shots, generator(0, f"shots/{string}"))
    variance = (1 - exact**2) / shots
    assert abs(float(found.mean()) - exact) <= 3 * (variance / runs) ** 0.5 + 1e-12
    # the variance of a sample variance of nearly normal values is 2 v^2 / (runs - 1)
    assert abs(float(found.var()) - variance) <= 3 * variance * (2 / (runs - 1)) ** 0.5 * 1.1 + 1e-12


def test_shots_of_the_register_are_within_three_sigma_and_keyed():
    state, shots = random_state(4, 5), 4000
    found = sampled_z(state, shots, generator(0, "z"))
    exact = expectation_z(state)
    assert bool(((found - exact).abs() <= 4 * ((1 - exact**2) / shots).sqrt()).all())
    assert torch.equal(found, sampled_z(state, shots, generator(0, "z")))
    counts = draw(probabilities(state), shots, generator(0, "z"))
    assert counts.sum(1).tolist() == [shots] * 5


def test_read_out_confusion_is_the_kronecker_product_of_every_qubits():
    outcomes = probabilities(random_state(3, 2))
    one = torch.tensor([[0.9, 0.2], [0.1, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(ReadOut(0.1, 0.2)(outcomes), outcomes @ kron_all([one] * 3).mT)
    z = z_values(ReadOut(0.1, 0.2)(outcomes))
    torch.testing.assert_close(z, 0.7 * z_values(outcomes) + 0.1)  # (1 - a - b) z + (b - a)


@pytest.mark.parametrize("circuit", [
    strongly_entangling(3, 2),
    Circuit(3, [("H", 0), ("CRX", 0, 1), ("RX", 2), ("CRZ", 1, 2), ("RZ", 0), ("CRY", 2, 0), ("RY", 1)]),
], ids=["layers", "controlled"])  # fmt: skip
def test_the_shift_rule_is_autograd(circuit):
    state, angles = random_state(3, 2), random_angles(circuit.shape)

    def value(at):
        return expectation(circuit(at, state), "ZXY")

    exact = torch.autograd.functional.jacobian(value, angles).flatten(1).mT
    found = parameter_shift(value, angles, circuit.four_term)
    torch.testing.assert_close(found, exact, atol=1e-14, rtol=0)


def test_two_terms_do_not_do_for_a_controlled_rotation():
    circuit = Circuit(2, [("H", 0), ("CRY", 0, 1), ("RX", 0)])
    angles, state = random_angles((2,)), random_state(2, 1)
    exact = parameter_shift(lambda a: expectation(circuit(a, state), "XZ"), angles, circuit.four_term)
    wrong = parameter_shift(lambda a: expectation(circuit(a, state), "XZ"), angles)
    assert (exact - wrong).abs().max() > 1e-3


def test_the_sampled_shift_rule_is_unbiased():
    circuit, state = strongly_entangling(2, 1), random_state(2, 1)
    angles, shots, runs = random_angles(circuit.shape), 100, 400
    exact = parameter_shift(lambda a: expectation(circuit(a, state), "ZI"), angles)[:, 0]
    draws, rows = generator(0, "shift"), state.repeat(runs, 1)
    found = parameter_shift(lambda a: sampled(circuit(a, rows), "ZI", shots, draws).double(), angles)
    sigma = (0.5 / shots / runs) ** 0.5  # at most: two terms of variance 1/S, each by a quarter
    assert (found.mean(1) - exact).abs().max() <= 4 * sigma


def test_bad_measurements_are_refused():
    for bad in ("ZZ", "ZZQ"):
        with pytest.raises(ConfigError, match="Pauli"):
            expectation(random_state(3, 1), bad)
        with pytest.raises(ConfigError, match="Pauli"):
            sampled(random_state(3, 1), bad, 10, generator(0, "x"))
    with pytest.raises(ConfigError, match="shots"):
        draw(torch.ones(1, 2), 0, generator(0, "x"))
    with pytest.raises(ConfigError, match="probability"):
        ReadOut(1.5, 0.0)


def test_shots_of_what_is_no_probability_are_refused():
    for row in ([0.0, 0.0], [torch.nan, 1.0], [-0.1, 1.1], [torch.inf, 0.0]):
        with pytest.raises(NonFinite, match="expected probabilities"):
            draw(torch.tensor([[0.5, 0.5], row]), 5, generator(0, "shots"))
    with pytest.raises(ConfigError, match="24 qubits"):
        draw(torch.zeros(1, 1).expand(1, 2**24 + 1), 5, generator(0, "shots"))


def test_shots_of_many_outcomes_follow_their_probabilities():
    size = 2**21
    rare = torch.zeros(1, size)
    rare[0, 0], rare[0, 1:] = 1 - 1e-3, 1e-3 / (size - 1)  # in float32 each adds less to a running sum than it holds
    counts = draw(rare, 2_000_000, generator(0, "many outcomes"))
    assert abs(int(counts[0, 1:].sum()) - 2000) < 5 * 2000**0.5


def test_sampled_values_have_the_precision_of_the_state():
    for dtype in (torch.complex64, torch.complex128):
        state = random_state(2, 3).to(dtype)
        assert sampled(state, "XZ", 10, generator(0, "shots")).dtype == dtype.to_real()
