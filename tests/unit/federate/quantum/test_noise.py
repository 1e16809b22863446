"""Channels: the twirl and the trajectories against the exact density matrix, and that against Kraus sums."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.quantum import density as exact
from dtheta.federate.quantum.circuit import Circuit
from dtheta.federate.quantum.layers import Layers, strongly_entangling
from dtheta.federate.quantum.measure import expectation_z, probabilities, z_values
from dtheta.federate.quantum.noise import (
    Pauli,
    amplitude_damping,
    depolarizing,
    phase_damping,
    trajectories,
    twirl,
    twirl_outcomes,
)  # fmt: skip
from dtheta.federate.quantum.statevector import zero_state
from tests.unit.federate.quantum.plain import full_matrix, random_angles, random_state

CHANNELS = {
    "depolarizing": depolarizing(0.1).kraus(),
    "amplitude": amplitude_damping(0.3),
    "phase": phase_damping(0.2),
    "pauli": Pauli(0.1, 0.05, 0.2).kraus(),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_keeps_the_trace_and_is_its_kraus_sum(name):
    kraus = CHANNELS[name]
    torch.testing.assert_close((kraus.mH @ kraus).sum(0), torch.eye(2, dtype=kraus.dtype))
    rho = exact.density(random_state(3, 2))
    full = [full_matrix(k, (1,), 3) for k in kraus]
    torch.testing.assert_close(exact.channel(rho, kraus, 1), torch.stack([K @ rho @ K.mH for K in full]).sum(0))


def test_without_noise_the_density_matrix_is_the_states():
    circuit, state = strongly_entangling(3, 2), random_state(3, 2)
    angles = random_angles(circuit.shape)
    found = exact.evolve(circuit, angles, exact.density(state))
    torch.testing.assert_close(found, exact.density(circuit(angles, state)))
    torch.testing.assert_close(exact.outcomes(found), probabilities(circuit(angles, state)))


def test_damping_does_what_its_name_says():
    one = exact.density(torch.tensor([[0, 1]], dtype=torch.complex128))
    plus = exact.density(torch.full((1, 2), 0.5**0.5, dtype=torch.complex128))
    decayed = exact.channel(one, amplitude_damping(0.3), 0)
    torch.testing.assert_close(exact.outcomes(decayed), torch.tensor([[0.3, 0.7]], dtype=torch.float64))
    dephased = exact.channel(plus, phase_damping(0.36), 0)[0]
    torch.testing.assert_close(dephased[0, 1].real, torch.tensor(0.4, dtype=torch.float64))
    torch.testing.assert_close(dephased.diagonal().real, torch.full((2,), 0.5, dtype=torch.float64))


def test_the_depolarizing_twirl_is_the_density_matrixs():
    state, strength, layers = random_state(3, 2), 0.07, 3
    rho = exact.density(state)
    for layer in range(layers):
        circuit = Layers(3, 1, "ZYZ", (layer % 2 + 1,))
        angles = random_angles(circuit.shape, f"layer {layer}")
        rho = exact.depolarize(exact.evolve(circuit, angles, rho), strength)
        state = circuit(angles, state)
    found = exact.outcomes(rho)
    torch.testing.assert_close(z_values(found), twirl(expectation_z(state), strength, layers))
    torch.testing.assert_close(found, twirl_outcomes(probabilities(state), strength, layers))


@pytest.mark.parametrize("noise", [depolarizing(0.05), Pauli(0.1, 0.0, 0.03)], ids=["depolarizing", "pauli"])
def test_trajectories_are_the_density_matrix_within_their_error(noise):
    circuit = Circuit(3, [("RY", 0), ("CNOT", 0, 1), ("RX", 2), ("CRZ", 1, 2), ("RY", 1), ("CNOT", 2, 0)])
    angles, count = random_angles(circuit.shape), 4000
    start = zero_state(3, 1, torch.complex128)
    z = z_values(exact.outcomes(exact.evolve(circuit, angles, exact.density(start), noise.kraus())))[0]
    paths = expectation_z(trajectories(circuit, angles, start, noise, count, generator(0, "paths")))
    error = paths.std(0) / count**0.5
    assert bool(((paths.mean(0) - z).abs() <= 3.5 * error + 1e-12).all())
    assert (expectation_z(circuit(angles, start))[0] - z).abs().max() > 10 * error.max()  # the noise is seen


def test_bad_noise_is_refused():
    for make in (lambda: depolarizing(1.2), lambda: amplitude_damping(-0.1), lambda: Pauli(0.6, 0.6, 0.0)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError, match="at most 6"):
        exact.density(zero_state(7))


def test_trajectories_take_angles_of_every_row():
    circuit = Circuit(2, [("RX", 0), ("CNOT", 0, 1)])
    angles = random_angles((3, 1))
    for state in (zero_state(2, 1, torch.complex128), random_state(2, 3)):
        found = trajectories(circuit, angles, state, depolarizing(0.0), 3, generator(0, "trajectories"))
        torch.testing.assert_close(found, circuit(angles, state).repeat(3, 1))


def test_what_is_no_channel_is_refused():
    circuit, rho = Circuit(1, [("RX", 0)]), exact.density(zero_state(1))
    with pytest.raises(ConfigError, match=r"depolarizing\(p\)\.kraus"):
        exact.evolve(circuit, torch.zeros(1), rho, depolarizing(0.1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="not the identity"):
        exact.channel(rho, 0.5 * depolarizing(0.1).kraus(), 0)
    with pytest.raises(ConfigError, match="wire is 1"):
        exact.channel(rho, depolarizing(0.1).kraus(), 1)
    with pytest.raises(ConfigError, match="strength is 2"):
        exact.depolarize(rho, 2.0)
    with pytest.raises(ConfigError, match="layers is -1"):
        twirl(torch.ones(1), 0.5, -1)
    with pytest.raises(ShapeMismatch, match="4 qubits"):
        exact.evolve(Circuit(2, [("RX", 0)]), torch.zeros(1), rho)
