"""A client's round: trained on top of the global delta, the change of the round alone comes back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dtheta as dt
from dtheta.adapt.attach import attach
from dtheta.adapt.bitfit import BitFit
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.federate.client import Client
from dtheta.federate.proximal import squared_norm
from tests.unit.federate.parties import batch, clients, model, squared

METHODS = [Full(), LoRA(rank=2), LoRA(rank=2, dropout=0.3), BitFit()]


def _client(net, method, **settings):
    select = None if isinstance(method, (Full, BitFit)) else "*.weight"
    return clients(net, 1, method=method, select=select, steps=4, **settings)[0]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_training_on_top_of_a_delta_is_training_on_the_merged_model(method):
    net = model()
    before = {n: p.clone() for n, p in net.named_parameters()}
    start = _client(net, Full()).train(Delta({}), 1, 0).delta
    here = _client(net, method).train(start, 2, 0)
    merged = dt.merge(net, start)
    there = _client(merged, method).train(Delta({}), 2, 0)
    assert here.metrics == there.metrics
    for name in there.delta:
        assert torch.equal(here.delta[name].dense(), there.delta[name].dense()), name
    assert all(torch.equal(p, before[n]) and p.requires_grad for n, p in net.named_parameters())


@pytest.mark.parametrize("method", [PiSSA(rank=2), CLIPSVD()], ids=repr)
def test_factors_are_those_of_the_base_in_every_round(method):
    net = model()
    start = _client(net, Full()).train(Delta({}), 1, 0).delta
    update = _client(net, method).train(start, 2, 0)
    assert update.delta.base.digests == {n: start.base.digests[n] for n in update.delta}
    plain = attach(net, method, "*.weight")
    for key in plain.sites:
        ours, theirs = update.delta[key], plain.term(key).change()
        if method.name == "PiSSA":  # the second half of its factors is the start, of the base's singular vectors
            assert torch.equal(ours.left[:, 2:], theirs.left[:, 2:]) and torch.equal(ours.right[2:], theirs.right[2:])
        else:
            assert torch.equal(ours.left, theirs.left)
    plain.detach()


def test_a_round_is_keyed_by_seed_round_and_name():
    net = model()
    net.insert(1, nn.Dropout(0.5))
    one = _client(net, Full())
    first = one.train(Delta({}), 1, 0).delta
    assert one.train(Delta({}), 1, 0).delta == first
    others = [one.train(Delta({}), 2, 0), one.train(Delta({}), 1, 1)]
    others.append(dataclasses.replace(one, name="other").train(Delta({}), 1, 0))
    assert all(update.delta != first for update in others)


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=3), CLIPSVD(), Full()], ids=repr)
def test_the_squared_norm_of_a_term_is_that_of_its_matrix_and_so_is_its_gradient(method):
    adapter = attach(model(), method, "*.weight")
    for key in adapter.sites:
        term = adapter.term(key)
        with torch.no_grad():
            for i, p in enumerate(term.parameters()):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        ours, plain = squared_norm(term), term.matrix().square().sum()
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
        wanted = torch.autograd.grad(plain, list(term.parameters()))
        for a, b in zip(torch.autograd.grad(ours, list(term.parameters())), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_fedprox_is_the_loss_with_the_term_written_by_hand():
    net, mu = model(), 0.7
    adapter_loss = []

    def by_hand(adapter, rows):
        moved = sum(term.matrix().square().sum() for term in adapter.terms.values())
        adapter_loss.append(1)
        return squared(adapter, rows) + mu / 2 * moved

    prox = _client(net, LoRA(rank=2), proximal=mu).train(Delta({}), 1, 0).delta
    plain = _client(net, LoRA(rank=2), loss=by_hand).train(Delta({}), 1, 0).delta
    assert adapter_loss
    for name in plain:
        torch.testing.assert_close(prox[name].dense(), plain[name].dense(), rtol=1e-3, atol=1e-5)
    far = _client(net, Full(), lr=0.2).train(Delta({}), 1, 0).delta.norm()
    near = _client(net, Full(), lr=0.2, proximal=100.0).train(Delta({}), 1, 0).delta.norm()
    assert near < far


def test_examples_are_counted_or_told():
    net, (x, y) = model(), batch(9, 0)
    for data in ([(x, y), (x[:3], y[:3])], TensorDataset(*batch(12, 0)), lambda: [(x, y), (x[:3], y[:3])]):
        one = Client("c", net, data, Full(), steps=1, loss=squared)
        assert one.train(Delta({}), 1, 0).examples == 12
    one = Client("c", net, [(x, y)], Full(), steps=1, loss=squared, examples=77, evaluate=lambda m: {"a": 1})
    found = one.train(Delta({}), 1, 0)
    assert found.examples == 77 and found.metrics["a"] == 1.0

    def endless():
        while True:
            yield x, y

    with pytest.raises(ConfigError, match=r"its data has no length; give examples=\.\.\."):
        Client("c", net, endless(), Full(), steps=1, loss=squared).train(Delta({}), 1, 0)


def test_an_error_in_training_leaves_the_model_as_it_was():
    net = model()
    before = {n: p.clone() for n, p in net.named_parameters()}

    def bad(adapter, rows):
        raise RuntimeError("no")

    start = _client(net, Full()).train(Delta({}), 1, 0).delta
    with pytest.raises(RuntimeError, match="no"):
        _client(net, Full(), loss=bad).train(start, 2, 0)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert not any("parametrizations" in n for n, _ in net.named_parameters())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": ""}, "the name of a client"),
        ({"method": "LoRA"}, "expected one such as"),
        ({"steps": 0}, "steps is 0"),
        ({"proximal": -1.0}, "proximal is -1.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, what):
    given = {"name": "c", "model": model(), "data": [], "method": Full(), "steps": 1} | change
    with pytest.raises(ConfigError, match=what):
        Client(**given)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (DataLoader([(torch.zeros(7), torch.tensor(0))] * 5, batch_size=2), 5),  # type: ignore[arg-type]
        (DataLoader([torch.zeros(4, 7)] * 3, batch_size=None), 12),  # type: ignore[arg-type]
        ([(torch.zeros(4, 7), torch.zeros(4))] * 3, 12),
    ],
    ids=["examples in a list", "batches behind a loader", "batches"],
)
def test_examples_are_counted_one_by_one(data, count):
    assert clients(model(), 1)[0]._count(data) == count


def test_an_evaluation_of_a_client_leaves_modes_and_generators_as_they_were():
    net = model()
    seen = []

    def evaluate(adapter):
        adapter.eval()
        seen.append(float(torch.rand(())))
        return torch.tensor(0.5)

    (party,) = clients(net, 1, evaluate=evaluate)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert net.training and party.train(Delta({}), 1, 0).metrics["score"] == 0.5
    assert all(module.training for module in net.modules()) and torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    party.train(Delta({}), 1, 0)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("where", ["loss", "evaluate"])
def test_a_client_that_raises_leaves_the_base_as_it_was(where):
    net = model()
    calls = []

    def fails(*given):
        calls.append(given)
        if where == "loss" and len(calls) < 3:
            return squared(*given)
        raise RuntimeError("enough")

    (party,) = clients(net, 1, steps=5, **{where: fails})
    (other,) = clients(net, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    learned = other.train(Delta({}), 1, 0).delta
    for start in (Delta({}), learned):
        calls.clear()
        with pytest.raises(RuntimeError, match="enough"):
            party.train(start, 2, 0)
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        assert all(module.training for module in net.modules()) and all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"momentum": 0.9}, "momentum=0.9 goes with optimizer='sgd'"),
        ({"lr": -1.0}, "lr must be a positive number"),
        ({"warmup": 9}, "warmup=9 is longer than the run"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"schedule": "cosin"}, "schedule must be one of"),
    ],
)
def test_settings_that_cannot_train_are_refused_before_any_round(settings, what):
    with pytest.raises(ConfigError, match=what):
        clients(model(), 1, **settings)
