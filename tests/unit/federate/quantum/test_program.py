"""The program model: its values are the chip's, its shift gradient is autograd's, it trains."""

from __future__ import annotations

import pytest
import torch

import dtheta as dt
from dtheta.adapt.full import Full
from dtheta.errors import ConfigError
from dtheta.federate.quantum.chip import run_chip
from dtheta.federate.quantum.program import (
    ProgramClassifier,
    classes_of_rows,
    program_circuit,
    program_of,
    quotient,
    values,
)  # fmt: skip
from dtheta.federate.quantum.shift import parameter_shift
from tests.unit.federate.quantum.plain import random_angles, random_state


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    return torch.randn(3, 4, generator=draws)[labels] + 0.1 * torch.randn(48, 4, generator=draws), labels


@pytest.mark.parametrize("real", [False, True])
def test_values_are_expectations_on_the_chip(real):
    circuit = program_circuit(2, 2, real)
    assert torch.Size(circuit.shape).numel() == (2 if real else 4) * 2 * 2
    program = program_of(circuit, random_angles(circuit.shape))
    operator = program.view(4, 4).mT
    assert not real or not operator.imag.any()
    psi, observables = random_state(2, 3), torch.randn(2, 4, dtype=torch.float64)
    found = run_chip(operator, psi)
    exact = observables @ (found.probability[:, None] * found.state.abs() ** 2).mT
    torch.testing.assert_close(values(program, psi, observables), exact)


def test_the_shift_rule_is_exact_before_the_division_and_not_after():
    circuit, psi = program_circuit(1, 2), random_state(1, 2)
    angles, both = random_angles(circuit.shape), torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)

    def f(at):
        return values(program_of(circuit, at), psi, both)

    exact = torch.autograd.functional.jacobian(f, angles).flatten(2).movedim(2, 0)
    shift = parameter_shift(f, angles)
    torch.testing.assert_close(shift, exact, atol=1e-14, rtol=0)
    f_M, p = f(angles)
    ratio = torch.autograd.functional.jacobian(lambda at: f(at)[0] / f(at)[1], angles).flatten(1).mT
    torch.testing.assert_close(quotient(f_M, p, shift[:, 0], shift[:, 1]), ratio, atol=1e-13, rtol=0)
    assert (parameter_shift(lambda at: f(at)[0] / f(at)[1], angles) - ratio).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"real": True}, {"head": "affine"}, {"constant": True}])
def test_the_gradient_from_shifted_programs_is_autograds(options):
    x, labels = problem()
    model = ProgramClassifier(4, 3, layers=2, **options).double()
    exact = torch.autograd.grad(model(x, labels).loss, model.angles)[0]
    torch.testing.assert_close(model.shift_gradient(x, labels), exact, atol=1e-12, rtol=0)


def test_it_trains_with_fit_and_full():
    x, labels = problem()
    adapter = dt.attach(ProgramClassifier(4, 3, layers=3), Full())
    record = dt.fit(adapter, [{"x": x, "labels": labels}], steps=60, lr=0.1, quiet=True)
    assert record.losses[-1][1] < 0.7 * record.losses[0][1]
    assert float((adapter(x).logits.argmax(1) == labels).float().mean()) > 0.9


def test_success_is_reported_with_the_shots_that_it_takes():
    x, _ = problem()
    model = ProgramClassifier(4, 3)
    found = model.success(x)
    torch.testing.assert_close(found.probability, model.values(model.angles, x)[-1].detach())
    assert bool((found.probability <= 0.25 + 1e-6).all()) and bool((found.shots >= 4 - 1e-4).all())


def test_logits_are_probabilities_of_the_first_qubits():
    assert classes_of_rows(3, 3).tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
    ]
    x, _ = problem()
    model = ProgramClassifier(4, 4)
    torch.testing.assert_close(model(x).logits.exp().sum(1), torch.ones(48))


@pytest.mark.parametrize("options", [{"classes": 5}, {"classes": 1}, {"qubits": 1}, {"head": "none"}, {"layers": 0}])
def test_options_that_cannot_be_meant_are_refused(options):
    with pytest.raises(ConfigError):
        ProgramClassifier(**({"features": 4, "classes": 2} | options))


@pytest.mark.parametrize("head", ["projectors", "affine"])
def test_a_row_at_which_the_chip_never_succeeds_says_nothing(head):
    model = ProgramClassifier(4, 2, layers=1, head=head)
    with torch.no_grad():
        model.angles.zero_()  # the operator is |0><0|
    x, labels = torch.eye(4)[[1, 0]], torch.tensor([0, 1])
    found = model(x, labels)
    assert float(model.success(x).probability[0]) == 0
    assert found.logits.isfinite().all() and found.loss.isfinite()
    if head == "projectors":
        assert found.logits[0, 0] == found.logits[0, 1]
    (gradient,) = torch.autograd.grad(found.loss, model.angles)
    torch.testing.assert_close(model.shift_gradient(x, labels), gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_angles_of_any_precision_are_computed_in_float32_or_wider(dtype):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for head in ("projectors", "affine"):
        model = ProgramClassifier(4, 2, layers=1, head=head)
        wanted = model(x).logits
        torch.testing.assert_close(model.to(dtype)(x).logits.to(wanted), wanted, rtol=0.2, atol=0.2)
