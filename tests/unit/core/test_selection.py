"""Which parameters a pattern names, how they are used, and what is said when it names none."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dtheta.core.selection import (
    ROLES,
    adds_up,
    has_plain_forward,
    has_role,
    layer_index,
    select,
    sites,
)
from dtheta.errors import ConfigError, DthetaError, UnknownParameter, UnsupportedLayer


def keys(model: nn.Module, pattern: str | None = None, **options: bool) -> list[str]:
    return [site.key for site in select(model, pattern, **options)]


class Blocks(nn.Module):
    """Two numbered blocks of attention and feed-forward layers, with embeddings and a head around them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"attn_q": nn.Linear(4, 4), "attn_v": nn.Linear(4, 4), "up": nn.Linear(4, 8)})
            for _ in range(3)
        )
        self.patch = nn.Conv2d(1, 4, 2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 11)


@pytest.fixture
def blocks() -> nn.Module:
    return Blocks()


def test_default_is_the_linear_weights_of_the_blocks(blocks):
    names = [f"layers.{i}.{leaf}.weight" for i in range(3) for leaf in ("attn_q", "attn_v", "up")]
    assert keys(blocks) == keys(blocks, "@blocks") == names


def test_default_without_numbered_layers_is_every_linear_weight():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Embedding(2, 2)})
    assert keys(model) == ["a.weight"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("@attention#1", ["layers.1.attn_q.weight", "layers.1.attn_v.weight"]),
        ("@mlp", ["layers.0.up.weight", "layers.1.up.weight", "layers.2.up.weight"]),
        ("@mlp#1-2", ["layers.1.up.weight", "layers.2.up.weight"]),
        ("@linear|!@blocks", ["head.weight"]),
        ("@conv", ["patch.weight"]),
        ("@embedding", ["embed.weight"]),
        ("head", ["head.weight"]),
        ("head.weight", ["head.weight"]),
        ("*.attn_?#0", ["layers.0.attn_q.weight", "layers.0.attn_v.weight"]),
        ("head | @mlp#0 ", ["layers.0.up.weight", "head.weight"]),
        ("@mlp|!*.0.*|!layers.1.up", ["layers.2.up.weight"]),
        ("layers.[02].up", ["layers.0.up.weight", "layers.2.up.weight"]),
    ],
)
def test_patterns(blocks, pattern, expected):
    assert keys(blocks, pattern) == expected


def test_vectors_are_taken_only_when_asked_for(blocks):
    assert keys(blocks, "head*") == ["head.weight"]
    assert keys(blocks, "head*", matrices=False) == ["head.weight", "head.bias"]
    assert keys(blocks, "@bias", matrices=False)[-2:] == ["norm.bias", "head.bias"]
    assert len(keys(blocks, "@all", matrices=False)) == len(list(blocks.parameters()))


def test_order_is_that_of_the_model_and_nothing_is_taken_twice(blocks):
    assert keys(blocks, "head|@linear|layers.0.up") == keys(blocks, "@linear")


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("layers.0.attn_w", UnknownParameter, r"did you mean .*attn_q"),
        ("haed", UnknownParameter, r"did you mean 'head'"),
        ("*.query", ConfigError, r"takes no parameter; parameters of this model are called 'embed\.weight'"),
        ("@mlp#7", ConfigError, "'@mlp#7'"),
        ("@mpl", ConfigError, "did you mean 'mlp'"),
        ("head|!head", ConfigError, "takes no parameter"),
        ("head#", ConfigError, "cannot read 'head#'"),
        ("head:xyz", ConfigError, "cannot read"),
        ("", ConfigError, "cannot read"),
        ("head||head", ConfigError, "cannot read ''"),
        ("head:qv", UnsupportedLayer, r"head\.weight: cannot cut into q, k, v"),
        ("norm", UnknownParameter, "no matrix parameter"),
        ("attn_q", UnknownParameter, r"globs are over whole names: did you mean '\*\.attn_q'"),
        (["attn_q", "up"], ConfigError, r"one text, .*: '\*\.attn_q\|\*\.up'; found \['attn_q', 'up'\]"),
        (3, ConfigError, "a selection is one text, .*found 3"),
    ],
)
def test_what_takes_nothing_is_an_error(blocks, pattern, error, message):
    with pytest.raises(error, match=message):
        select(blocks, pattern)


def test_the_gate_of_a_shared_expert_is_left_out_of_the_default():
    layer = {
        "q_proj": nn.Linear(4, 4),
        "shared_expert_gate": nn.Linear(4, 1, bias=False),
        "regression": nn.Linear(4, 1),
        "aggregate": nn.Linear(4, 1),
    }
    model = nn.ModuleList([nn.ModuleDict(layer)])
    assert keys(model) == keys(model, "@blocks") == ["0.q_proj.weight", "0.regression.weight", "0.aggregate.weight"]
    assert "0.shared_expert_gate.weight" in keys(model, "@linear")


def test_model_without_matrices():
    with pytest.raises(ConfigError, match="no parameter of two or more dimensions"):
        select(nn.LayerNorm(3))


@given(st.text(alphabet="abl.*?[]!@#:|qkv0-9 ", max_size=12))
def test_no_pattern_raises_anything_but_our_errors(pattern):
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    try:
        chosen = select(model, pattern)
    except DthetaError:
        return
    assert chosen
    assert {site.name for site in chosen} <= {"a.weight", "b.weight"}


def test_fused_attention_is_cut_by_rows(tiny_mha):
    found = select(tiny_mha, "attention")
    assert [site.key for site in found] == [f"attention.in_proj_weight[{label}]" for label in "qkv"]
    assert [(s.window.axis, s.window.start, s.window.stop) for s in found] == [(0, 0, 16), (0, 16, 32), (0, 32, 48)]
    assert all(site.shape == (16, 16) and not site.hookable for site in found)
    weight = tiny_mha.attention.in_proj_weight
    assert torch.equal(found[1].matrix(), weight[16:32])
    assert found[1].matrix().data_ptr() == weight[16:].data_ptr()
    assert keys(tiny_mha, "attention|!attention:k") == ["attention.in_proj_weight[q]", "attention.in_proj_weight[v]"]


def test_gpt2_is_cut_by_columns(tiny_gpt2):
    found = select(tiny_gpt2, "*.c_attn#1:vq")
    assert [site.key for site in found] == [f"transformer.h.1.attn.c_attn.weight[{label}]" for label in "qv"]
    assert [(s.window.axis, s.window.start) for s in found] == [(1, 0), (1, 32)]
    assert all(site.kind == "transposed" and site.hookable for site in found)
    assert keys(tiny_gpt2, "*.c_attn#1") == ["transformer.h.1.attn.c_attn.weight"]


def test_kinds_and_shapes(tiny_gpt2, tiny_conv):
    table = sites(tiny_gpt2)
    assert table["transformer.h.0.mlp.c_fc.weight"].kind == "transposed"
    assert table["transformer.ln_f.weight"].kind == "bare"
    assert table["transformer.h.0.attn.c_attn.bias"].kind == "bare"
    table = sites(tiny_conv)
    assert (table["2.weight"].kind, table["2.weight"].shape) == ("conv", (8, 36))
    assert not table["2.weight"].hookable


def test_tied_parameters_are_one_site(tiny_gpt2):
    table = sites(tiny_gpt2)
    assert "lm_head.weight" not in table
    site = table["transformer.wte.weight"]
    assert site.tied
    assert not site.hookable
    assert [owner.path for owner in site.owners] == ["transformer.wte", "lm_head"]
    assert not has_role(site, "blocks")
    assert keys(tiny_gpt2, "lm_head") == ["transformer.wte.weight"]


def test_of_a_single_parameter_the_name_is_said_once():
    with pytest.raises(ConfigError, match=r"parameters of this model are called 'weight'$"):
        select(nn.Linear(2, 2, bias=False), "*.query")


def test_weights_that_are_used_past_their_layer_are_not_hooked(tiny_mha):
    assert sites(tiny_mha)["attention.out_proj.weight"].bypassed
    encoder = nn.TransformerEncoderLayer(4, 2, 8)
    assert {n for n, s in sites(encoder).items() if s.bypassed and s.is_matrix} == {
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    assert not any(site.hookable for site in sites(encoder).values())


def test_only_the_plain_forward_adds_up():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Renamed(nn.Linear):
        pass

    class Unpacked(nn.Module):
        def virtual_tensors(self):
            return {}

    assert has_plain_forward(nn.Linear(1, 1))
    assert has_plain_forward(Renamed(1, 1))
    assert not adds_up(Doubling(1, 1))
    assert adds_up(Unpacked())
    assert not sites(nn.Sequential(Doubling(2, 2)))["0.weight"].hookable


def test_roles_are_the_documented_ones(blocks):
    assert all(isinstance(has_role(site, role), bool) for site in sites(blocks).values() for role in ROLES)
    assert [layer_index(n) for n in ("a.3.b.4", "a.b", "7")] == [3, None, 7]


def test_attention_without_a_layer_number(tiny_mha):
    assert keys(tiny_mha, "@attention") == [
        *(f"attention.in_proj_weight[{c}]" for c in "qkv"),
        "attention.out_proj.weight",
    ]


def test_an_mlp_inside_of_attention_is_an_mlp():
    linear = nn.Linear(4, 4, bias=False)
    model = nn.ModuleDict(
        {
            name: nn.ModuleList([nn.ModuleDict({"mlp": copy.deepcopy(linear), "query": copy.deepcopy(linear)})])
            for name in ("self_attends", "pattern", "SelfAttention")
        }
    )
    assert keys(model, "@attention") == ["self_attends.0.query.weight", "SelfAttention.0.query.weight"]
    mlps = [f"{name}.0.mlp.weight" for name in ("self_attends", "pattern", "SelfAttention")]
    assert keys(model, "@mlp") == [*mlps[:2], "pattern.0.query.weight", mlps[2]]
