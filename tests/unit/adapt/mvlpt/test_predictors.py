"""Cheap predictors of transfer, and their rank correlation with what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dtheta as dt
from dtheta.adapt.mvlpt.predictors import (
    centroid,
    cosines,
    judge_predictors,
    prompt_gradient,
    prompt_vector,
)
from dtheta.adapt.mvlpt.transfer import Transfer
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch


def test_cosines_are_of_every_two() -> None:
    vectors = list(torch.randn(4, 6, generator=generator(0, "vectors")))
    found = cosines(vectors)
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert float(found[i, j]) == pytest.approx(float(F.cosine_similarity(a, b, dim=0)), abs=1e-6)
    with pytest.raises(NonFinite, match="vector 1 holds NaN"):
        cosines([torch.ones(2), torch.tensor([1.0, float("nan")])])
    with pytest.raises(ConfigError, match="vector 1 is zero"):
        cosines([vectors[0], torch.zeros(6)])
    with pytest.raises(ShapeMismatch, match="one length"):
        cosines([vectors[0], vectors[1][:3]])
    with pytest.raises(ShapeMismatch, match="one length"):
        cosines([])


def test_a_centroid_is_of_directions() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    assert centroid(features).tolist() == [0.5, 0.5]


def test_a_prompt_is_compared_by_its_mean_tokens(classifier: Callable[..., Any]) -> None:
    adapter = dt.attach(classifier(2, 3), VPT(length=3))
    delta = adapter.delta()
    adapter.detach()
    wanted = torch.cat([delta[f"prompt.visual.{layer}"].dense().double().mean(0) for layer in range(2)])
    assert torch.equal(prompt_vector(delta), wanted)


def test_what_is_no_prompt_or_not_folded_is_refused(classifier: Callable[..., Any]) -> None:
    net = classifier(2, 3)
    moved = dt.attach(net, dt.LoRA(rank=1), "*q_proj*")
    with pytest.raises(ConfigError, match="no prompt"):
        prompt_vector(moved.delta())
    moved.detach()
    mixed = dt.attach(net, UPT(length=2, width=8))
    with pytest.raises(ConfigError, match="folded"):
        prompt_vector(mixed.delta())
    mixed.detach()


def test_a_gradient_is_that_of_the_mean_loss(classifier: Callable[..., Any], images: Callable[..., Any]) -> None:
    net, data, method = classifier(2, 3), images("first", 2).tensors, CoOp(length=4)
    uneven = [{name: tensor[part] for name, tensor in data.items()} for part in (slice(0, 8), slice(8, 12))]
    found = prompt_gradient(net, method, uneven, seed=3)
    adapter = dt.attach(net, method, seed=3)
    (parameter,) = adapter.trainable().values()
    (wanted,) = torch.autograd.grad(net(**data).loss, parameter)
    adapter.detach()
    assert torch.allclose(found, wanted.flatten(), rtol=1e-4, atol=1e-4)
    assert all(p.grad is None for p in net.parameters())
    net.train()
    prompt_gradient(net, method, uneven)
    assert all(module.training for module in net.modules())
    with pytest.raises(ConfigError, match="no batch"):
        prompt_gradient(net, method, [])


def study(gain: torch.Tensor) -> Transfer:
    alone = torch.full((2, len(gain)), 0.5)
    return Transfer(tuple("abcdef"), alone, 0.5 + 0.5 * gain.expand(2, -1, -1))


def test_the_best_predictor_comes_first_and_noise_is_not_significant() -> None:
    gain = torch.rand(6, 6, generator=generator(0, "gain"), dtype=torch.float64) - 0.5
    noise = torch.rand(6, 6, generator=generator(1, "gain"), dtype=torch.float64)
    found = judge_predictors(study(gain), {"noise": noise, "oracle": 2 * gain, "contrary": -gain})
    assert [one.name for one in found.of] == ["oracle", "noise", "contrary"]
    best, noisy, worst = found.of
    assert best.spearman.estimate == pytest.approx(1.0) and best.kendall.estimate == pytest.approx(1.0)
    assert worst.kendall.estimate == pytest.approx(-1.0)
    assert best.spearman.p <= 0.01 < 0.05 < noisy.spearman.p
    lines = found.table().splitlines()
    assert lines[0].split() == ["predictor", "Spearman", "p", "Kendall", "p"]
    assert lines[1].startswith("oracle") and "+1.00 [" in lines[1] and len(lines) == 4


def test_a_matrix_over_other_tasks_or_without_order_is_refused() -> None:
    gain = torch.rand(6, 6, generator=generator(0, "gain"))
    with pytest.raises(ShapeMismatch, match="square matrices"):
        judge_predictors(study(gain), {"few": gain[:5, :5]})
    with pytest.raises(NotConverged, match="predictor 'flat' against the gains"):
        judge_predictors(study(gain), {"flat": torch.ones(6, 6)})
