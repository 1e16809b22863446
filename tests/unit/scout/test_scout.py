"""Scouting: the planted answer comes first, chance stays chance, and nothing of the model changes."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.errors import ConfigError
from dtheta.scout.check import judged
from dtheta.scout.scout import scout
from tests.unit.scout.planted import Gates, Small, inputs, sentences, sign_of, tiny_bert

LAYERS = [(dt.Full(), "layers.0.weight"), (dt.Full(), "layers.1.weight"), dt.BitFit()]


def test_the_layer_that_must_move_comes_first() -> None:
    x = inputs(200)
    found = scout(Gates(), [(x, sign_of(x, 1))], LAYERS, probe="none")
    assert found.best.name == "Full on layers.0.weight"
    assert found.best.accuracy.low > 0.8 and found.head.estimate < 0.65
    assert found["Full on layers.1.weight"].accuracy.estimate < 0.65
    assert found.best.gain.low > 0.1
    assert found.proposal.name == found.best.name


def test_where_a_vector_of_biases_is_enough_it_is_proposed() -> None:
    x = inputs(200)
    methods = [(dt.BitFit(), "gate.bias"), (dt.Full(), "layers.1.weight"), (dt.Full(), "@all")]
    found = scout(Gates(), [(x, sign_of(x, 0))], methods, probe="none")
    assert found["BitFit on gate.bias"].accuracy.low > 0.85
    assert found["Full on layers.1.weight"].accuracy.estimate < 0.65
    assert found.proposal.name == "BitFit on gate.bias"  # as good as all, with fewer weights


def test_what_the_head_knows_already_needs_no_method() -> None:
    x = inputs(200)
    found = scout(Gates(), [(x, sign_of(x, 5))], LAYERS, probe="none")
    assert found.head.low > 0.8
    assert all(abs(row.gain.estimate) < 0.08 for row in found.rows)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_labels_are_predicted_at_chance(seed) -> None:
    labels = torch.randint(0, 3, (150,), generator=torch.Generator().manual_seed(seed))
    methods = [dt.LoRA(rank=4), dt.Full(), dt.BitFit(), dt.PiSSA(rank=2)]
    found = scout(Small(), [(inputs(150, seed).double(), labels)], methods, probe="none", outputs=2)
    assert all(row.accuracy.estimate < 0.45 for row in found.rows)
    assert all(row.loss > 0.6 for row in found.rows)  # 2/3 is the loss of the mean


def test_shares_of_layers_sum_to_one_and_name_the_layer() -> None:
    x = inputs(200)
    found = scout(Gates(), [(x, sign_of(x, 1))], [dt.Full(), dt.BitFit()], probe="none")
    for row in found.rows:
        assert sum(row.shares.values()) == pytest.approx(1.0)
        assert all(share >= 0 for share in row.shares.values())
    assert found["Full"].shares["0"] > 0.5
    assert "0" in found.proposal.layers


def test_the_model_is_as_it_was() -> None:
    net = Small().train()
    net.layers[0].weight.requires_grad_(False)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules()]
    state = torch.get_rng_state()
    methods = [dt.LoRA(rank=2), dt.BitFit(), dt.PromptTuning()]
    scout(net, [(inputs(60).double(), torch.arange(60) % 3)], methods, probe="all", probe_steps=2)
    assert net.training and all("forward" not in m.__dict__ for m in net.modules())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules()] == hooks
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_the_model_cannot_take_is_listed_with_the_reason() -> None:
    data = [(inputs(60).double(), torch.arange(60) % 3)]
    found = scout(Small(), data, [dt.PromptTuning(), dt.LoRA(rank=50), dt.BitFit()], probe="none")
    assert [row.name for row in found.rows] == ["BitFit"]
    assert {one.name for one in found.refused} == {"PromptTuning", "LoRA(rank=50)"}
    assert "rank 50 does not fit" in found.refused[1].reason
    with pytest.raises(ConfigError, match="none of the methods"):
        scout(Small(), data, [dt.PromptTuning()], probe="none")


def test_a_layer_that_cannot_be_captured_costs_only_the_methods_that_train_it() -> None:
    class Tied(Small):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 8).double()
            self.back = nn.Linear(8, 10, bias=False)
            self.back.weight = self.table.weight  # a table and an output head at once

        def forward(self, ids):
            x = torch.tanh(self.layers[0](self.table(ids).mean(1)))
            return self.head(self.back(x[:, :8]) + x)

    ids = torch.randint(0, 10, (60, 4), generator=torch.Generator().manual_seed(0))
    methods = [dt.Full(), (dt.Full(), "layers.0.*"), (dt.BitFit(), "layers.1.bias")]  # of which the last is not used
    found = scout(Tied(), [(ids, torch.arange(60) % 3)], methods, probe="none")
    assert {row.name for row in found.rows} == {"Full on layers.0.*", "BitFit on layers.1.bias"}
    assert "no output depends" in found["BitFit on layers.1.bias"].note
    assert "table and an output head" in found.refused[0].reason


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"methods": ["LoRAA"]}, "unknown method"),
        ({"methods": []}, "no methods"),
        ({"methods": [3]}, "a number among the methods"),
        ({"methods": [dt.BitFit(), "BitFit"]}, "given twice"),
        ({"probe": "some"}, "probe is"),
        ({"outputs": 0}, "outputs"),
        ({"head": "tail"}, "no head 'tail'"),
        ({"model": nn.Sequential(nn.Linear(8, 3))}, "no head"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(changes, match) -> None:
    data = [(inputs(60).double(), torch.arange(60) % 3)]
    given = {"model": Small(), "data": data, "methods": [dt.BitFit()], "probe": "none", **changes}
    with pytest.raises(ConfigError, match=match):
        scout(**given)


def test_an_adapter_is_refused() -> None:
    net = Small()
    adapter = dt.attach(net, dt.BitFit())
    with pytest.raises(ConfigError, match="not its adapter"):
        scout(adapter, [(inputs(60).double(), torch.arange(60) % 3)], [dt.BitFit()])


def test_a_pretrained_encoder_gets_a_head_and_prompts_a_pass_of_their_own() -> None:
    encoder = tiny_bert()
    methods = [dt.LoRA(rank=2), dt.PromptTuning(length=2), dt.CLIPSVD()]
    found = scout(encoder, sentences(60), methods, probe="none")
    assert {row.method.name for row in found.rows if row.method} == {"LoRA", "PromptTuning", "CLIPSVD"}
    assert found["PromptTuning(length=2)"].shares == {"input": pytest.approx(1.0)}
    assert found["PromptTuning(length=2)"].parameters == 2 * 16
    assert not any("pooler" in name for name in found["LoRA(rank=2)"].shares)


def test_the_same_seed_gives_the_same_numbers() -> None:
    data = [(inputs(60).double(), torch.arange(60) % 3)]
    first, second = (scout(Small(), data, [dt.LoRA(rank=2), dt.Full()], probe="none", seed=3) for _ in range(2))
    assert first.rows == second.rows


def test_a_scouting_is_json_and_a_table() -> None:
    data = [(inputs(60).double(), torch.arange(60) % 3)]
    found = scout(Small(), data, [dt.LoRA(rank=2), dt.PromptTuning()], probe_steps=2)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["rows"][0]["method"]["name"] == "LoRA" and record["best"] == "LoRA(rank=2)"
    assert record["believe"] is found.believe
    text = found.table()
    assert "LoRA(rank=2)" in text and "not scouted: PromptTuning" in text and found.checks[0].verdict in text


def test_a_network_that_is_linear_in_what_trains_is_believed() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Module()
            self.shift.bias = nn.Parameter(torch.zeros(8))
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(x + x.sum(1, keepdim=True) * self.shift.bias)

    x = inputs(80)
    (check,) = scout(Linear(), [(x, sign_of(x, 0))], [dt.BitFit()], probe_steps=3).checks
    assert check.cka > 0.9 and check.believe and check.verdict.startswith("believe")


def test_a_network_that_leaves_its_linear_model_is_not_believed() -> None:
    assert not judged("x", 8, 0.1, 0.31, 0.99, 1.0).believe
    assert not judged("x", 8, 0.1, 0.1, 0.7, 1.0).believe
    assert judged("x", 8, 0.1, 0.1, 0.9, 1.0).believe


def test_a_bias_behind_all_layers_moves_all_examples_alike_and_is_scouted() -> None:
    class Behind(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers[1](torch.tanh(self.layers[0](x))))

    x = inputs(60).double()
    methods = [(dt.BitFit(), "layers.1.bias"), dt.LoRA(rank=2)]
    found = scout(Behind(2), [(x, sign_of(x, 1))], methods, probe="all")
    row = found["BitFit on layers.1.bias"]
    assert row.alignment == 0.0 and abs(row.gain.estimate) < 0.1
    (check,) = [one for one in found.checks if one.name == row.name]
    assert check.cka == pytest.approx(1.0) and check.inflation == pytest.approx(1.0)


def test_weights_that_no_output_depends_on_train_and_are_counted() -> None:
    model, x = Small(2), inputs(60).double()
    model.unused = nn.Linear(5, 5).double()
    methods = [dt.Full(), dt.BitFit(), dt.LoRA(rank=2)]
    found = scout(model, [(x, sign_of(x, 1))], methods, probe="none")
    for row in found.rows:
        assert row.method is not None
        adapter = dt.attach(model, row.method)
        trained = sum(p.numel() for name, p in adapter.trainable().items() if not name.startswith("head."))
        adapter.detach()
        assert row.parameters == trained


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_is_not_taken_for_nonlinearity(dtype) -> None:
    x = inputs(64).double()
    labels = sign_of(x, 1)
    checks = []
    for kind in (torch.float64, dtype):
        checks += scout(Small(2).to(kind), [(x.to(kind), labels)], [dt.LoRA(rank=2)]).checks
    assert checks[0].nonlinearity < 0.1 and checks[1].nonlinearity < 0.2
    assert checks[1].believe
