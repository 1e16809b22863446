"""Derivatives from superposed programs: exact against autograd, sampled within their error."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.federate.quantum.program import program_circuit, program_of, values
from dtheta.federate.quantum.superposition import (
    branch_gradient,
    branch_state,
    branch_states,
    derivative_gradient,
    derivative_states,
    sampled_gradient,
)  # fmt: skip
from tests.unit.federate.quantum.plain import random_angles, random_state

M = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)


@pytest.fixture(params=[False, True], ids=["complex", "real"])
def parts(request):
    circuit = program_circuit(2, 2, request.param)
    angles, psi = random_angles(circuit.shape), random_state(2, 3)
    exact = torch.autograd.functional.jacobian(lambda a: values(program_of(circuit, a), psi, M[None])[0], angles)
    return circuit, angles, psi, exact.flatten(1).mT


def test_a_branch_state_gives_the_derivative(parts):
    circuit, angles, psi, exact = parts
    state = branch_state(circuit, angles, 3)
    torch.testing.assert_close(state.norm(), torch.ones((), dtype=torch.float64))
    plus, minus = (values(side, psi, M[None])[0] for side in state)
    torch.testing.assert_close(plus - minus, exact[3], atol=1e-14, rtol=0)


def test_the_index_register_gives_all_of_them(parts):
    circuit, angles, psi, exact = parts
    states = branch_states(circuit, angles)
    torch.testing.assert_close(states.norm(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(branch_gradient(states, psi, M), exact, atol=1e-14, rtol=0)


def test_derivative_states_are_the_derivative_of_the_program_and_of_its_values(parts):
    circuit, angles, psi, exact = parts
    states = derivative_states(circuit, angles)
    torch.testing.assert_close(states.norm(dim=1), torch.ones(len(states), dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda a: torch.view_as_real(program_of(circuit, a)), angles)
    slopes = torch.view_as_complex(jacobian.flatten(2).movedim(1, 2).contiguous()).mT
    torch.testing.assert_close(states / 2, slopes, atol=1e-14, rtol=0)
    found = derivative_gradient(program_of(circuit, angles), states, psi, M)
    torch.testing.assert_close(found, exact, atol=1e-14, rtol=0)


def test_shots_estimate_all_derivatives_without_bias(parts):
    circuit, angles, psi, exact = parts
    states, shots = branch_states(circuit, angles), 200_000
    found = sampled_gradient(states, psi, M, shots, generator(0, "branches"))
    count = len(states)
    # a shot shows P times +1, -1 or 0; its square has the mean P^2 Pr[index j and success] <= P / 4
    assert bool(((found - exact).abs() <= 4 * (count / 4 / shots) ** 0.5).all())
    assert torch.equal(found, sampled_gradient(states, psi, M, shots, generator(0, "branches")))


def test_an_angle_that_is_not_there_is_refused():
    circuit = program_circuit(1, 1)
    with pytest.raises(ConfigError, match="4 angles"):
        branch_state(circuit, random_angles(circuit.shape), 4)


def test_an_observable_of_whole_numbers_is_not_rounded():
    circuit = program_circuit(1, 1)
    branches = branch_states(circuit, random_angles(circuit.shape))
    psi, observable = random_state(1, 2), torch.tensor([1, -1])
    whole, real = (
        sampled_gradient(branches, psi, values, 1000, generator(0, "shots"))
        for values in (observable, observable.double())
    )
    assert whole.dtype == torch.float64 and float(whole.abs().max()) > 0
    torch.testing.assert_close(whole, real)
