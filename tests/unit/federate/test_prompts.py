"""Vectors that the base does not have go on from the global ones; what cannot be averaged is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from dtheta.adapt.attach import attach
from dtheta.adapt.houlsby import Houlsby
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.snnk import SNNK
from dtheta.core.delta import Delta
from dtheta.errors import UnsupportedLayer
from dtheta.federate.client import Client
from dtheta.federate.federate import federate
from dtheta.federate.server.server import Server


def _model(seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, **shape)).eval()


def _batch(seed: int, rows: int = 16):
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (rows, 7), generator=draws)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[:, 0] > 27).long()}


def _clients(net, method, **settings):
    given = {"steps": 4, "lr": 0.05, "also": "classifier.*"} | settings
    return [Client(f"c{k}", net, [_batch(k)], method, **given) for k in range(3)]


def _judge(net):
    with torch.no_grad():
        return float(sum(net(**_batch(k)).loss for k in range(3)) / 3)


METHODS = [PromptTuning(length=3), Houlsby(size=2), SNNK(features=4)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_new_vectors_are_federated_from_the_server_s_start(method):
    net = _model()
    parties = _clients(net, method)
    made = Server(net, method, also="classifier.*")
    found = federate(made, parties, rounds=4, evaluate=_judge, codec="exact")
    losses = [row.scores["score"] for row in found.history]
    assert losses[-1] < losses[0] and not any(row.excluded for row in found.history)
    assert found.delta.new and found.history[0].bits_down > 0
    adapter = attach(net, found.delta)
    assert adapter.method.name == method.name and _judge(adapter.eval()) == pytest.approx(losses[-1], rel=1e-5)
    adapter.detach()


def test_a_round_of_prompts_is_the_mean_of_what_each_client_would_have():
    net, method = _model(), PromptTuning(length=3)
    parties = _clients(net, method, also=None)
    start = Server(net, method).template(0)
    ends = [c.train(start, 1, 0).delta + start for c in parties]
    found = federate(Server(net, method), parties, rounds=1).delta
    for name in start:
        mean = sum(e[name].dense().double() for e in ends) / 3
        torch.testing.assert_close(found[name].dense().double(), mean, rtol=1e-5, atol=1e-6)


def test_fedprox_holds_prompts_near_the_global_ones():
    net, method = _model(), PromptTuning(length=3)
    start = Server(net, method).template(0)
    free, held = (_clients(net, method, also=None, proximal=mu)[0].train(start, 1, 0).delta.norm() for mu in (0.0, 1e3))
    assert 0 < held < 0.5 * free


def test_a_client_with_another_base_is_noticed_although_prompts_touch_no_tensor():
    net = _model()
    parties = [*_clients(net, PromptTuning(length=3), also=None)[:2]]
    parties.append(Client("c2", _model(1), [_batch(2)], PromptTuning(length=3), steps=1))
    found = federate(Server(net, PromptTuning(length=3)), parties, rounds=1)
    assert found.history[0].excluded["c2"].startswith("base")


def test_products_of_new_factors_are_refused():
    with pytest.raises(UnsupportedLayer, match="federate a method without one, such as PromptTuning"):
        federate(Server(_model(), DePT(length=2, rank=2)), _clients(_model(), DePT(length=2, rank=2)), rounds=1)
    assert len(Delta({})) == 0
