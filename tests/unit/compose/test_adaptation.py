"""Adaptation without labels: entropy falls, pseudo-labels are as described, empty masks give zero."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.compose.adaptation import adapt_coefficients, entropy
from dtheta.compose.compose import compose
from dtheta.compose.pool import Pool
from dtheta.compose.ufm import Mixed, Mixture, consistency, pseudo_labels, trusted, ufm_loss
from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from tests.unit.compose.examples import bits, delta, normal


def predict(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


@pytest.fixture
def deltas(tiny_mlp: nn.Module) -> list[Delta]:
    return [delta(tiny_mlp, "dense", 0), delta(tiny_mlp, "ternary", 1)]


def test_entropy_is_in_nats_and_the_margin_filters() -> None:
    logits = torch.tensor([[0.0, 0.0], [20.0, 0.0]])
    assert float(entropy(logits)) == pytest.approx(math.log(2) / 2, abs=1e-6)
    assert float(entropy(logits, 0.4)) == pytest.approx(0.0, abs=1e-6)
    flat = torch.zeros(3, 4, requires_grad=True)
    entropy(flat, 0.4).backward()  # no row counts: zero, not NaN
    assert flat.grad is not None and not flat.grad.any()


@pytest.mark.parametrize("linearized", [False, True])
def test_entropy_falls(tiny_mlp: nn.Module, deltas: list[Delta], linearized: bool) -> None:
    x = normal(64, 12, name="pool")
    before, start = bits(tiny_mlp), float(entropy(tiny_mlp(x)).detach())
    found = adapt_coefficients(
        tiny_mlp, deltas, x, predict, objective="entropy", batch_size=16, lr=1e-1, linearized=linearized
    )
    assert bits(tiny_mlp) == before
    if not linearized:
        with applied(tiny_mlp, compose(deltas, found)), torch.no_grad():
            assert float(entropy(tiny_mlp(x))) < 0.95 * start


def test_ufm_makes_the_model_surer_of_what_it_trusts(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    x = normal(64, 12, name="pool")
    settings: dict[str, Any] = {"batch_size": 16, "lr": 2e-2, "epochs": 5, "exponent": 2.0}
    found = adapt_coefficients(
        tiny_mlp, deltas, x, predict, strong=lambda batch: batch + 0.1 * torch.randn_like(batch), **settings
    )
    again = adapt_coefficients(
        tiny_mlp, deltas, x, predict, strong=lambda batch: batch + 0.1 * torch.randn_like(batch), **settings
    )
    assert found == again and found.values.any()
    losses = [e.loss for e in found.report.epochs[1:]]  # type: ignore[union-attr]
    assert losses[-1] < losses[0]  # type: ignore[operator]


def test_trusted_examples_are_the_surest_of_each_predicted_class() -> None:
    logits = torch.tensor([[3.0, 0], [9.0, 0], [5.0, 0], [0, 1.0], [4.0, 0], [0, 2.0]])
    sure, labels = trusted(lambda model, batch: logits[batch], None, Pool(torch.arange(6)), 4)
    assert sure.tolist() == [1, 2, 3, 4, 5] and labels.tolist() == [0, 0, 1, 0, 1]
    many = torch.cat([logits, torch.zeros(6, 3)], 1)  # 6 examples, 5 classes: one of each class that is predicted
    sure, labels = trusted(lambda model, batch: many[batch], None, Pool(torch.arange(6)), 6)
    assert sure.tolist() == [1, 5] and labels.tolist() == [0, 1]


def test_pseudo_labels_are_powers_of_the_chances() -> None:
    logits = normal(5, 4)
    p = logits.softmax(1)
    for exponent in (0.5, 2.0):
        wanted = p**exponent / (p**exponent).sum(1, keepdim=True)
        assert torch.allclose(pseudo_labels(logits, exponent), wanted, atol=1e-6)
    assert pseudo_labels(logits, 0.5).amax(1).mean() < p.amax(1).mean() < pseudo_labels(logits, 2.0).amax(1).mean()


def test_consistency_counts_sure_rows_only() -> None:
    target = torch.tensor([[0.95, 0.05], [0.6, 0.4]])
    logits = normal(2, 2).requires_grad_()
    wanted = -(target[0] * logits.log_softmax(1)[0]).sum()
    assert torch.allclose(consistency(target, logits, 0.9), wanted)
    nothing = consistency(target, logits, 0.99)
    nothing.backward()
    assert float(nothing.detach()) == 0.0 and logits.grad is not None and not logits.grad.any()


def test_a_loss_with_an_empty_mask_is_the_trusted_part(tiny_mlp: nn.Module) -> None:
    pool = Pool(normal(6, 12))
    mixed = Mixed(torch.tensor([0, 1]), torch.tensor([3, 4]), torch.tensor([2, 3]), 1.0)
    found = ufm_loss(predict, tiny_mlp, pool, mixed, lambda b: b, lambda b: b, 0.5)
    assert torch.allclose(found, F.cross_entropy(tiny_mlp(pool.examples[:2]), mixed.labels))


def test_a_mixture_has_a_quarter_of_trusted_ones_and_a_rising_threshold(tiny_mlp: nn.Module) -> None:
    pool = Pool(normal(100, 12))
    mixture = Mixture(pool, predict, 16, 0, epochs=2, model=tiny_mlp)
    first, second = list(mixture), list(mixture)
    assert len(first) == len(mixture) == 9 and all(len(m.trusted) == 4 and len(m.others) <= 12 for m in first)
    sure = set(trusted(predict, tiny_mlp, pool, 16)[0].tolist())
    assert all(set(m.trusted.tolist()) <= sure and not set(m.others.tolist()) & sure for m in first + second)
    thresholds = [m.threshold for m in first + second]
    assert thresholds[0] == 0.9 and thresholds == sorted(thresholds) and thresholds[-1] < 1.0
    assert [m.others.tolist() for m in first] != [m.others.tolist() for m in second]


def test_trust_is_estimated_anew_before_every_epoch(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    whole: list[int] = []

    def noted(model: nn.Module, batch: Tensor) -> Tensor:
        whole.append(len(batch))
        return model(batch)

    adapt_coefficients(tiny_mlp, deltas, normal(40, 12), noted, batch_size=40, epochs=3)
    assert whole.count(40) == 3


def test_pools_of_mappings_and_sequences() -> None:
    x = normal(5, 3)
    index = torch.tensor([4, 0])
    assert torch.equal(Pool({"x": x})[index]["x"], x[index])
    words = Pool(["a", "b", "c", "d", "e"], collate="".join)
    assert len(words) == 5 and words[index] == "ea" and list(words.batches(2)) == ["ab", "cd", "e"]


def test_what_cannot_be_adapted_to(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    x = normal(8, 12)

    def adapt(examples: Any = x, prediction: Any = predict, **arguments: Any) -> None:
        adapt_coefficients(tiny_mlp, deltas, examples, prediction, **arguments)

    with pytest.raises(ConfigError, match="no unlabeled examples"):
        adapt(x[:0])
    with pytest.raises(ConfigError, match="unknown objective"):
        adapt(objective="simclr")
    for margin in (2.0, "half"):
        with pytest.raises(ConfigError, match="margin"):
            adapt(objective="entropy", margin=margin)
    for exponent in (0.0, "half"):
        with pytest.raises(ConfigError, match="exponent"):
            adapt(exponent=exponent)
    with pytest.raises(ConfigError, match="batch_size"):
        adapt(batch_size=0)
    with pytest.raises(ConfigError, match="UFM has one batch"):
        adapt(accumulation=2)
    before = bits(tiny_mlp)
    with pytest.raises(ShapeMismatch, match="expected logits"):
        adapt(prediction=lambda model, batch: model(batch)[:, 0])
    with pytest.raises(NonFinite, match="logits that are not finite"):
        adapt(prediction=lambda model, batch: model(batch) * float("inf"))
    assert bits(tiny_mlp) == before


def test_arguments_of_the_other_objective_are_refused(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    x = normal(8, 12)
    for name, value in {"weak": abs, "strong": abs, "exponent": 2.0}.items():
        with pytest.raises(ConfigError, match=f"{name} does nothing with objective='entropy'"):
            adapt_coefficients(tiny_mlp, deltas, x, predict, objective="entropy", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="margin does nothing with objective='ufm'"):
        adapt_coefficients(tiny_mlp, deltas, x, predict, margin=0.4)


def test_a_metric_may_be_better_when_lower(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    x = normal(16, 12)

    def metric(model: nn.Module) -> float:
        with torch.no_grad():
            return float(entropy(model(x)))

    settings: dict[str, Any] = {"objective": "entropy", "metric": metric, "epochs": 3, "lr": 0.1}
    low = adapt_coefficients(tiny_mlp, deltas, x, predict, better="lower", **settings)
    high = adapt_coefficients(tiny_mlp, deltas, x, predict, **settings)
    assert low.values.any() and not high.values.any()  # entropy falls, and of the highest the base is kept
