"""Gradients as states: what S shots show, and aggregation by measurement and coherently."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.federate.quantum import amplitude as amp
from dtheta.federate.quantum.gates import fixed
from dtheta.federate.quantum.statevector import apply


def gradients(clients: int, count: int) -> list[torch.Tensor]:
    drawn = torch.randn(clients, count, dtype=torch.float64, generator=generator(0, "gradients"))
    return list(drawn * torch.arange(1, clients + 1)[:, None])


def test_a_state_is_a_direction_and_a_norm():
    state = amp.encode(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
    assert state.norm == 5 and state.direction.tolist() == [0.6, 0, 0, -0.8] and state.qubits == 2


@pytest.mark.parametrize("count", [2, 5, 16])
def test_shots_are_unbiased_with_the_error_of_the_formula(count):
    (g,), shots, runs = gradients(1, count), 40, 3000
    state = amp.encode(g)
    draws = generator(0, "read")
    found = torch.stack([amp.read(state, shots, draws) for _ in range(runs)])
    squares = (found - g).square().sum(1) / state.norm**2
    expected = (count - 1) / shots
    assert abs(float(squares.mean()) - expected) <= 4 * float(squares.std()) / runs**0.5
    sigma = found.std(0) / runs**0.5
    assert bool(((found.mean(0) - g).abs() <= 4.5 * sigma + 1e-12).all())


def test_the_outcomes_are_those_of_the_reference_branch_circuit():
    g, count = gradients(1, 4)[0], 4
    state = amp.encode(g)
    register = torch.cat([torch.full((count,), count**-0.5), state.direction]).to(torch.complex128)[None] / 2**0.5
    shown = apply(register, fixed("H", register.dtype), (0,)).abs().square()[0].view(2, count)
    torch.testing.assert_close(count**0.5 * (shown[0] - shown[1]), state.direction)


@pytest.mark.parametrize("clients", [1, 3, 4, 5])
def test_the_coherent_sum_is_the_weighted_sum_and_its_probability_the_circuits(clients):
    parts = gradients(clients, 6)
    weights = [1 / (k + 2) for k in range(clients)]
    exact = torch.stack([w * g for w, g in zip(weights, parts, strict=True)]).sum(0)
    found = amp.aggregate_coherent([amp.encode(g) for g in parts], weights)
    torch.testing.assert_close(found.gradient, exact)
    index = math.ceil(math.log2(clients))
    register = torch.zeros(2**index, 8, dtype=torch.complex128)
    register[:clients, :6] = torch.stack([w * g for w, g in zip(weights, parts, strict=True)])
    register = (register / register.norm()).flatten()[None]
    for qubit in range(index):
        register = apply(register, fixed("H", register.dtype), (qubit,))
    kept = register.view(-1, 8)[0]
    assert abs(float(kept.norm() ** 2) - found.probability) < 1e-14
    torch.testing.assert_close((kept / kept.norm()).real[:6], exact / exact.norm())
    assert found.shots == 1 / found.probability


def test_gradients_that_cancel_never_succeed():
    g = amp.encode(torch.tensor([1.0, 2.0])), amp.encode(torch.tensor([-1.0, -2.0]))
    found = amp.aggregate_coherent(g, [0.5, 0.5])
    assert found.probability < 1e-30 and found.shots > 1e30 and found.gradient.abs().max() < 1e-15
    nothing = amp.aggregate_coherent([amp.encode(torch.zeros(2))] * 2, [0.5, 0.5])
    assert nothing.probability == 0 and nothing.shots == math.inf and not nothing.gradient.any()


def test_measured_aggregation_comes_close_and_counts_copies():
    parts, shots = [*gradients(3, 6), torch.zeros(6)], 100_000
    states, weights = [amp.encode(g) for g in parts], [0.2, 0.3, 0.4, 0.1]
    found = amp.aggregate_measured(states, weights, shots, generator(0, "sum"))
    exact = sum(w * g for w, g in zip(weights, parts, strict=True))
    sigma = math.sqrt(sum((w * s.norm) ** 2 * 5 / shots for w, s in zip(weights, states, strict=True)))
    assert float((found.gradient - exact).norm()) <= 3 * sigma
    assert found.cost == amp.Cost(3 * shots, 4) and found.cost.qubits == 12 * shots  # a zero gradient is not sent


def test_costs_are_those_of_the_formulas():
    assert amp.shift_cost(48, 4, 10, 1000) == amp.Cost(2 * 48 * 10 * 1000, 8)
    assert amp.superposition_cost(48, 4, 10, 1000) == amp.Cost(10 * 1000, 8 + 1 + 6)
    assert amp.gradient_cost(48, 1000) == amp.Cost(1000, 7)
    assert [amp.index_qubits(n) for n in (1, 2, 3, 4, 5)] == [0, 1, 2, 2, 3]


def test_bad_input_is_refused():
    one, two = amp.encode(torch.ones(2)), amp.encode(torch.ones(3))
    with pytest.raises(NonFinite):
        amp.encode(torch.tensor([math.inf]))
    with pytest.raises(ShapeMismatch):
        amp.aggregate_coherent([one, two], [1, 1])
    for states, weights in (([], []), ([one], [1, 1]), ([one], [-1])):
        with pytest.raises(ConfigError):
            amp.aggregate_coherent(states, weights)
    with pytest.raises(ConfigError, match="shots"):
        amp.read(one, 0, generator(0, "x"))
    with pytest.raises(ConfigError, match="in parts"):
        amp.read(amp.GradientState(torch.zeros(1).expand(amp.MOST_PARAMETERS + 1), 1.0), 1, generator(0, "x"))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_very_small_and_large_gradients_keep_direction_and_norm(scale):
    state = amp.encode(scale * torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64))
    torch.testing.assert_close(state.direction, torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64))
    assert state.norm == pytest.approx(5 * scale)
    assert amp.encode(torch.zeros(0)).norm == 0


def test_weights_that_are_not_finite_are_refused():
    for weight in (math.inf, math.nan):
        with pytest.raises(ConfigError, match="expected finite numbers"):
            amp.aggregate_coherent([amp.encode(torch.ones(3))], [weight])
