"""SORSA: triplets that train with their vectors kept orthonormal, by the exact gradient of the un-squared norm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.sorsa import SORSA, departure, orthonormal_factors, orthonormality, orthonormality_gradient
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 12))


@pytest.fixture
def adapter(model):
    return attach(model, SORSA(rank=3, gamma=0.01))


def shake(adapter, size=0.1):
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(drawn(*p.shape, name=name), alpha=size)


def regularizer(adapter):
    """The mean over all A and B of || M M^T - I ||_F, for torch to differentiate."""
    norms = [
        torch.linalg.matrix_norm((p @ p.T if rows else p.T @ p) - torch.eye(3))
        for p, rows in orthonormal_factors(adapter)
    ]
    return sum(norms) / len(norms)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_start_is_orthonormal_with_the_singular_values_between(model, alpha):
    adapter = attach(model, SORSA(rank=3, alpha=alpha))
    assert orthonormality(adapter) < 1e-5
    for key, site in adapter.sites.items():
        term = adapter.term(key)
        S = torch.linalg.svdvals(site.matrix())
        torch.testing.assert_close(term.core * term.scale, S[:3], rtol=1e-4, atol=0)
    assert set(dict(adapter.term("0.weight").named_parameters())) == {"left", "right", "core"}
    adapter.detach()


def test_closed_form_gradient_is_that_of_the_norm(adapter):
    shake(adapter)
    lr = 0.05
    regularizer(adapter).backward()
    expected = {n: 0.01 / lr * p.grad for n, p in adapter.trainable().items() if p.grad is not None}
    for p in adapter.trainable().values():
        p.grad = None
    adapter.method.add_gradient(adapter, lr)
    assert set(expected) == {f"{i}.weight.{side}" for i in (0, 2) for side in ("left", "right")}
    for name, gradient in expected.items():
        torch.testing.assert_close(adapter.trainable()[name].grad, gradient, rtol=1e-4, atol=1e-6)
    assert adapter.term("0.weight").core.grad is None
    assert math.isclose(orthonormality(adapter), float(regularizer(adapter).detach()), rel_tol=1e-5)
    adapter.detach()


def test_gradient_is_added_to_the_one_of_the_task(adapter):
    shake(adapter)
    adapter(drawn(4, 20)).sum().backward()
    before = {n: p.grad.clone() for n, p in adapter.trainable().items()}
    adapter.method.add_gradient(adapter, 0.1)
    for name, p in adapter.trainable().items():
        moved = not torch.equal(p.grad, before[name])
        assert moved == (not name.endswith("core"))
    adapter.detach()


def test_steps_along_it_restore_orthonormality(adapter):
    shake(adapter)
    start, lr = orthonormality(adapter), 0.05
    for _ in range(100):
        for p in adapter.trainable().values():
            p.grad = None
        adapter.method.add_gradient(adapter, lr)
        with torch.no_grad():
            for p in adapter.trainable().values():
                if p.grad is not None:
                    p.sub_(p.grad, alpha=lr)
    assert orthonormality(adapter) < 0.1 * start
    adapter.detach()


def test_rounding_noise_has_no_direction(adapter):
    adapter.method.add_gradient(adapter, 0.1)
    assert not any(p.grad is not None and p.grad.any() for p in adapter.trainable().values())
    assert not orthonormality_gradient(torch.eye(3, 5)).any()
    off = torch.eye(3, 5) * 1.001
    assert orthonormality_gradient(off).any()
    torch.testing.assert_close(departure(off), torch.eye(3) * (1.001**2 - 1))
    adapter.detach()


def test_without_gamma_nothing_is_added(model):
    adapter = attach(model, SORSA(rank=3, gamma=0.0))
    shake(adapter)
    adapter.method.add_gradient(adapter, 0.1)
    assert all(p.grad is None for p in adapter.trainable().values())
    adapter.detach()


def test_a_weight_of_zeros_trains_by_its_values():
    """Unlike PiSSA's, the factors of a zero weight are orthonormal, and S has a gradient."""
    model = nn.Sequential(nn.Linear(6, 5))
    with torch.no_grad():
        model[0].weight.zero_()
    adapter = attach(model, SORSA(rank=2))
    term = adapter.term("0.weight")
    adapter(torch.ones(3, 6)).sum().backward()
    assert term.core.grad.any()
    adapter.detach()


def test_a_stored_gamma_that_cannot_be_meant():
    model = nn.Sequential(nn.Linear(6, 5))
    adapter = attach(model, SORSA(rank=2))
    delta = adapter.delta()
    adapter.detach()
    made = replace(delta.provenance, method={**delta.provenance.method, "gamma": -1.0})
    with pytest.raises(ConfigError, match="gamma must be zero or a positive number"):
        attach(model, replace(delta, provenance=made))
