"""LoRA: zero at the start, drawn by seed and name, scaled by alpha over r or its root."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA, scaling
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.selection import sites
from dtheta.errors import ConfigError, UnsupportedLayer


def test_scaling():
    assert scaling(8, None, False) == 1.0
    assert scaling(8, 16.0, False) == 2.0
    assert scaling(4, 6.0, True) == 3.0
    for alpha in (0.0, -2.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="alpha"):
            scaling(8, alpha, False)


def test_start_is_uniform_in_and_zero_out(tiny_gpt2):
    model = nn.Sequential(nn.Linear(400, 30), nn.Embedding(50, 20))
    adapter = attach(model, LoRA(rank=16), "0|1")
    for key, fan_in in (("0.weight", 400), ("1.weight", 20)):
        drawn = adapter.term(key).right.detach()
        assert not adapter.term(key).left.any()
        assert drawn.abs().max() <= 1 / math.sqrt(fan_in)
        torch.testing.assert_close(float(drawn.std()), 1 / math.sqrt(3 * fan_in), rtol=0.1, atol=0)
    adapter.detach()
    adapter = attach(tiny_gpt2, LoRA(rank=2), "*.c_fc#0")  # stored as (in, out): the input side is the left
    term = adapter.term("transformer.h.0.mlp.c_fc.weight")
    assert (term.left.shape, term.right.any().item(), term.left.any().item()) == ((16, 2), False, True)
    adapter.detach()


def test_both_factors_train_from_the_second_step_on():
    model = nn.Sequential(nn.Linear(6, 5))
    adapter = attach(model, LoRA(rank=2, alpha=4.0))
    term, x = adapter.term("0.weight"), torch.randn(3, 6)
    adapter(x).sum().backward()
    assert term.left.grad.any()
    assert not term.right.grad.any()
    with torch.no_grad():
        term.left.sub_(term.left.grad)
    adapter(x).sum().backward()
    assert term.right.grad.any()
    torch.testing.assert_close(adapter.delta()["0.weight"].dense(), 2.0 * (term.left @ term.right).detach())
    adapter.detach()


def test_float64_base_trains_in_float64():
    model = nn.Sequential(nn.Linear(6, 5)).double()
    adapter = attach(model, LoRA(rank=2))
    assert adapter.term("0.weight").left.dtype == torch.float64
    assert adapter(torch.randn(3, 6).double()).dtype == torch.float64
    adapter.detach()


def test_restore_takes_the_scaling_of_the_file():
    site = sites(nn.Sequential(nn.Linear(6, 5)))["0.weight"]
    left, right = torch.randn(5, 3), torch.randn(3, 6)
    term = LoRA(rank=2, dropout=0.2).restore(site, LowRank(left, right, torch.full((3,), 2.5)))
    assert (term.scale, term.core, term.dropout) == (2.5, None, 0.2)
    assert torch.equal(term.change().core, torch.full((3,), 2.5))
    assert LoRA().restore(site, LowRank(left, right)).scale == 1.0
    several = LowRank(left, right, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(LoRA().restore(site, several).matrix(), several.dense())
    assert LoRA().restore(site, Dense(torch.ones(5, 6))).materialize


class Places(nn.Module):
    """Every kind of place where the inputs of a term cannot be dropped, and two where they can."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 1)
        self.attention = nn.MultiheadAttention(4, 1)
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.tied = nn.Embedding(5, 4)
        self.head.weight = self.tied.weight
        self.bare = nn.Parameter(torch.randn(4, 4))
        self.block = nn.TransformerEncoderLayer(4, 1, 6)
        self.linear = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("select", "name", "found"),
    [
        ("conv", "conv.weight", "one of Conv1d"),
        ("attention:q", r"attention.in_proj_weight\[q\]", "one of MultiheadAttention"),
        ("attention.out_proj", "attention.out_proj.weight", "another module reads past"),
        ("table", "table.weight", "one of Embedding"),
        ("head", "head.weight", "several modules share"),
        ("bare", "bare", "one of Places"),
        ("block.linear1", "block.linear1.weight", "another module reads past its Linear"),
    ],
)
def test_dropout_is_refused_where_inputs_cannot_be_dropped(select, name, found):
    model = Places()
    with pytest.raises(UnsupportedLayer, match=f"{name}: dropout=0.1 needs a linear layer.*{found}.*select='"):
        attach(model, LoRA(rank=2, dropout=0.1), select)
    attach(model, LoRA(rank=2), select).detach()
    attach(model, LoRA(rank=2, dropout=0.1), "linear", also="conv|*bias").detach()


def test_dropout_goes_on_with_a_delta_or_is_refused(tiny_gpt2):
    model = nn.Sequential(nn.Linear(6, 5))
    adapter = attach(model, LoRA(rank=2, dropout=0.5), also="0.bias")
    adapter.term("0.weight").left.data.fill_(1.0)
    delta = adapter.delta()
    adapter.detach()
    for continued in (delta, -1.0 * delta, delta + delta):
        method = delta.provenance.method
        again = attach(model, replace(continued, provenance=replace(continued.provenance, method=method)))
        assert again.term("0.weight").dropout == 0.5
        again.detach()
    record = Provenance("train", LoRA(rank=2, dropout=0.5).to_dict())
    table = Delta({"transformer.wte.weight": LowRank(torch.ones(64, 2), torch.ones(2, 16))}, provenance=record)
    with pytest.raises(UnsupportedLayer, match="several modules share"):
        attach(tiny_gpt2, table)
    wild = replace(delta, provenance=replace(delta.provenance, method=LoRA(rank=2, dropout=7.0).to_dict()))
    with pytest.raises(ConfigError, match=r"dropout must be in \[0, 1\), found 7"):
        attach(model, wild)


def test_a_stored_rank_of_zero():
    site = sites(nn.Sequential(nn.Linear(6, 5)))["0.weight"]
    empty = LowRank(torch.zeros(5, 0), torch.zeros(0, 6), torch.zeros(0))
    assert not LoRA().restore(site, empty).matrix().any()
