"""Amplitude and angle encoding."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.federate.quantum.encode import amplitude, amplitude_qubits, angle
from dtheta.federate.quantum.gates import ry
from tests.unit.federate.quantum.plain import kron_all, random_angles


def test_a_row_is_padded_and_scaled_to_length_one():
    found = amplitude(torch.tensor([[3.0, 0.0, -4.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.0, -0.8, 0.0]], dtype=torch.complex64))


def test_the_zero_vector_is_the_zero_state_and_has_a_gradient():
    x = torch.zeros(2, 4).index_fill_(0, torch.tensor([1]), 1.0).requires_grad_()
    found = amplitude(x)
    assert found[0].tolist() == [1, 0, 0, 0]
    found.real.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and not x.grad[0].any()


def test_the_gradient_is_numerical():
    x = random_angles((2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: torch.view_as_real(amplitude(rows)), x)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_small_and_large_rows_keep_their_direction(scale):
    torch.testing.assert_close(amplitude(torch.tensor([[3.0, 4.0]]) * scale).real, torch.tensor([[0.6, 0.8]]))


def test_a_constant_feature_keeps_the_length():
    x = torch.tensor([[1.0, 2.0, 2.0]])
    assert torch.allclose(amplitude(x), amplitude(5 * x))
    assert not torch.allclose(amplitude(x, constant=True), amplitude(5 * x, constant=True))
    torch.testing.assert_close(amplitude(x, constant=True)[0, 3].real, torch.tensor(1 / 10**0.5))


def test_qubits_are_the_ceiling_of_the_logarithm():
    assert [amplitude_qubits(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [1, 1, 2, 2, 3, 6, 7]
    assert amplitude_qubits(64, constant=True) == 7


def test_angles_are_a_product_of_turned_qubits():
    x = random_angles((2, 3))
    exact = [kron_all([ry(t)[:, 0] for t in row]) for row in x]
    torch.testing.assert_close(angle(x), torch.stack(exact))


def test_bad_rows_are_refused():
    with pytest.raises(NonFinite):
        amplitude(torch.tensor([[float("nan")]]))
    with pytest.raises(ShapeMismatch):
        amplitude(torch.zeros(3))
    with pytest.raises(ShapeMismatch, match="5 features"):
        amplitude(torch.ones(1, 5), qubits=2)
    with pytest.raises(ConfigError, match="axis"):
        angle(torch.ones(1, 2), "W")


def test_complex_rows_are_refused():
    with pytest.raises(ShapeMismatch, match="expected real numbers"):
        amplitude(torch.ones(1, 2) + 0j)
