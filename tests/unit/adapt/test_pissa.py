"""PiSSA: factors of the leading singular triplets, subtracted as they were at the start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.pissa import PiSSA, continued, principal
from dtheta.core.change import Dense
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.core.selection import select
from dtheta.errors import ConfigError


@pytest.fixture
def model():
    made = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 24))
    with torch.no_grad():
        for i, layer in enumerate(made):  # a spectrum with clear gaps, so that every vector is determined
            U, _, Vh = torch.linalg.svd(
                torch.randn(layer.weight.shape, generator=generator(0, "w", i)), full_matrices=False
            )
            layer.weight.copy_((U * (3.0 * 0.8 ** torch.arange(U.shape[1]))) @ Vh)
    return made


@pytest.mark.parametrize(
    "method", [PiSSA(rank=4), PiSSA(rank=4, alpha=2.0), PiSSA(rank=4, alpha=8.0, rslora=True)], ids=repr
)
def test_start_is_the_best_approximation(model, method):
    adapter = attach(model, method)
    for key, site in adapter.sites.items():
        term, W = adapter.term(key), site.matrix().double()
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        best = (U[:, :4] * S[:4]) @ Vh[:4]
        product = term.scale * term.left.double() @ term.right.double()
        torch.testing.assert_close(product, best, rtol=0, atol=1e-4)
        balanced = S[:4] / term.scale
        torch.testing.assert_close(term.left.double().square().sum(0), balanced, rtol=1e-4, atol=0)
        torch.testing.assert_close(term.right.double().square().sum(1), balanced, rtol=1e-4, atol=0)
        assert not term.matrix().any()
        assert torch.equal(term.left0, term.left)
    adapter.detach()


def test_first_gradient_is_that_of_the_principal_part(model):
    """Training moves B A, so the gradient of A is c B^T G with the principal B: not zero as with LoRA."""
    adapter = attach(model, PiSSA(rank=4, alpha=2.0), "0")
    term, x = adapter.term("0.weight"), torch.randn(5, 40, generator=generator(0, "x"))
    adapter(x).sum().backward()
    G = torch.ones(5, 24) @ model[1].weight
    torch.testing.assert_close(term.right.grad, 0.5 * term.left.T @ G.T @ x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(term.left.grad, 0.5 * G.T @ x @ term.right.T, rtol=1e-4, atol=1e-5)
    adapter.detach()


def test_file_holds_the_start_and_twice_the_rank(model):
    adapter = attach(model, PiSSA(rank=4, alpha=2.0))
    change = adapter.delta()["0.weight"]
    assert change.rank == 8
    assert torch.equal(change.core, torch.tensor([0.5] * 4 + [-0.5] * 4))
    assert change.norm() < 1e-12
    adapter.detach()


def test_continued_from_anything(model):
    stacked = LowRank(torch.randn(5, 4), torch.randn(4, 6), torch.tensor([2.0, 2, -2, -2]))
    term = continued(stacked, 2, 2.0)
    assert torch.equal(term.left0, stacked.left[:, 2:])
    torch.testing.assert_close(term.matrix(), stacked.dense(), rtol=1e-5, atol=1e-5)
    recompressed = LowRank(torch.randn(5, 2), torch.randn(2, 6))
    torch.testing.assert_close(continued(recompressed, 2, 2.0).matrix(), recompressed.dense())
    assert continued(Dense(torch.ones(2, 2)), 1, 1.0).materialize


def test_principal_checks_every_rank_before_any_work(model):
    with pytest.raises(ConfigError, match=r"1\.weight: rank 27"):
        principal(select(model), 27, None, 0)
    found = principal(select(model, "0"), 3, 1e-5, 0)
    assert (found["0.weight"].U.shape, found["0.weight"].Vh.shape) == ((30, 3), (3, 40))


@pytest.mark.parametrize(
    "core",
    [[2.0, 2.0, -2.0, -2.0], [3.0, 3.0, -3.0, -3.0], [1.0, 2.0, -2.0, -2.0], [2.0, 2.0, 2.0, -2.0], [0.0] * 4],
    ids=str,
)
def test_continued_is_the_stored_change_whatever_its_core(core):
    stored = LowRank(torch.randn(5, 4), torch.randn(4, 6), torch.tensor(core))
    for with_core in (False, True):
        found = continued(stored, 2, 2.0, with_core).matrix()
        torch.testing.assert_close(found, stored.dense(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_a_weighted_adapters_delta_goes_on_with_its_start(model, weight):
    adapter = attach(model, PiSSA(rank=3, alpha=1.0), "0", weight=weight)
    with torch.no_grad():
        adapter.term("0.weight").left.add_(0.1)
    delta = adapter.delta()
    adapter.detach()
    again = attach(model, delta)
    torch.testing.assert_close(again.delta()["0.weight"].dense(), delta["0.weight"].dense())
    scale, start = again.term("0.weight").scale, again.term("0.weight").left0
    again.detach()
    if weight == 1.0:
        assert scale == 1 / 3  # to the last bit, and not as float32 stored it
        assert start is not None


def test_a_rank_of_zero_in_a_record_splits_nothing():
    empty = LowRank(torch.zeros(5, 0), torch.zeros(0, 6), torch.zeros(0))
    assert not continued(empty, 0, 1.0).matrix().any()


def test_a_weight_of_zeros_could_never_train(model):
    with torch.no_grad():
        model[1].weight.zero_()
    with pytest.raises(ConfigError, match=r"1\.weight: the weight is all zeros.*LoRA.*select='\.\.\.\|!1\.weight'"):
        attach(model, PiSSA(rank=2))
    assert all(p.requires_grad for p in model.parameters())
    attach(model, PiSSA(rank=2), "@linear|!1.weight").detach()
