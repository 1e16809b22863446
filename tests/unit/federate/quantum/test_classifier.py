"""The variational classifier: it trains, its delta is dense and exact, shots and noise do what they say."""

from __future__ import annotations

import pytest
import torch

import dtheta as dt
from dtheta.adapt.full import Full
from dtheta.core.change import Dense
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.federate.quantum.classifier import QuantumClassifier
from dtheta.federate.quantum.measure import ReadOut, z_values


def blobs(rows: int = 60) -> dict[str, torch.Tensor]:
    """Three directions in 8 features, with some noise."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 3
    centers = torch.randn(3, 8, generator=draws)
    return {"x": centers[labels] + 0.2 * torch.randn(rows, 8, generator=draws), "labels": labels}


@pytest.mark.parametrize("head", ["affine", "probability"])
def test_it_trains_with_fit_and_full_and_its_delta_is_dense(head):
    model = QuantumClassifier(8, 3, layers=2, head=head)
    before, batch = {n: p.clone() for n, p in model.named_parameters()}, blobs()
    untrained = model(batch["x"]).logits
    adapter = dt.attach(model, Full())
    record = dt.fit(adapter, [batch], steps=40, lr=0.1, quiet=True)
    assert record.losses[-1][1] < 0.5 * record.losses[0][1]
    trained = adapter(**batch)
    assert float((trained.logits.argmax(1) == batch["labels"]).float().mean()) > 0.9
    delta = adapter.delta()
    assert all(isinstance(delta[name], Dense) for name in delta)
    adapter.detach()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert torch.equal(model(batch["x"]).logits, untrained)


def test_seeds_are_the_only_chance():
    one, again, other = (QuantumClassifier(8, 3, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.angles, other.angles)


def test_noise_shrinks_z_and_read_out_shifts_it():
    x = blobs(4)["x"]
    clean = QuantumClassifier(8, 2, layers=3)
    noisy = QuantumClassifier(8, 2, layers=3, noise=0.1, read_out=ReadOut(0.02, 0.06))
    exact = 0.92 * 0.9**3 * z_values(clean.outcomes(x)) + 0.04
    torch.testing.assert_close(z_values(noisy.outcomes(x)), exact)


def test_many_shots_come_close_and_the_gradient_is_the_exact_ones():
    batch = blobs(6)
    model = QuantumClassifier(8, 3, layers=2)
    exact = model(**batch)
    model.shots = 200_000
    torch.manual_seed(0)
    seen = model(**batch)
    assert not torch.equal(seen.logits, exact.logits)
    torch.testing.assert_close(seen.logits, exact.logits, atol=0.02, rtol=0)
    gradients = [torch.autograd.grad(p.loss, model.angles)[0] for p in (seen, exact)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=0.01, rtol=0)


def test_cost_counts_the_circuit():
    assert QuantumClassifier(8, 3, layers=2).cost() == {
        "qubits": 3, "parameters": 2 * 3 * 3 + 3 * 3 + 3, "rotations": 18, "cnots": 6,
    }  # fmt: skip


@pytest.mark.parametrize("options", [
    {"qubits": 2}, {"head": "linear"}, {"classes": 1}, {"noise": 2.0}, {"shots": 0}, {"layers": 0},
    {"classes": 9, "head": "probability"},
])  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(options):
    with pytest.raises(ConfigError):
        QuantumClassifier(**({"features": 8, "classes": 2} | options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_angles_of_any_precision_are_computed_in_float32_or_wider(dtype):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    model = QuantumClassifier(4, 2, layers=1)
    wanted = model(x).logits
    torch.testing.assert_close(model.to(dtype)(x).logits.to(wanted), wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("features", [1, 3, 5])
def test_rows_of_another_length_are_refused(features):
    with pytest.raises(ShapeMismatch, match=f"have {features} features; this classifier was made for 4"):
        QuantumClassifier(4, 2, constant=True)(torch.ones(2, features))
