"""Heads ranked by their value-output products, against products that are formed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.bitfit import BitFit
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.interpret.changed import HeadChange, changed_heads
from dtheta.adapt.lora import LoRA
from dtheta.compress.compeft import compress
from dtheta.core.apply import applied, merge
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.extract import extract
from dtheta.core.seeds import generator
from dtheta.errors import BaseMismatch, ConfigError, UnsupportedLayer
from tests.unit.adapt.interpret.networks import bert, clip, gpt2, llama, t5, timm, torch_attention, vit

# By model: its attention modules, and from (parameters, name, head) to W_V[h] (D, M) and W_O[:, h] (M, D).
LAYERS = {
    clip: [f"{tower}_model.encoder.layers.{i}.self_attn" for tower in ("text", "vision") for i in range(2)],
    bert: [f"encoder.layer.{i}.attention" for i in range(2)],
    llama: [f"layers.{i}.self_attn" for i in range(2)],
    gpt2: [f"h.{i}.attn" for i in range(2)],
    t5: [f"encoder.block.{i}.layer.0.SelfAttention" for i in range(2)],
    vit: [f"layers.{i}.attention" for i in range(2)],
    timm: ["attn"],
    torch_attention: ["attn"],
}


def factors(make, p, name, h):
    if make is gpt2:  # (in, out)
        v = p[f"{name}.c_attn.weight"][:, 32:].T
        return v[4 * h : 4 * h + 4], p[f"{name}.c_proj.weight"][4 * h : 4 * h + 4].T
    if make in (torch_attention, timm):
        fused, output = ("in_proj_weight", "out_proj") if make is torch_attention else ("qkv.weight", "proj")
        return p[f"{name}.{fused}"][32:][4 * h : 4 * h + 4], p[f"{name}.{output}.weight"][:, 4 * h : 4 * h + 4]
    if make is llama:  # 4 heads of 6 on 2 value heads
        v, o = p[f"{name}.v_proj.weight"], p[f"{name}.o_proj.weight"]
        return v[6 * (h // 2) : 6 * (h // 2) + 6], o[:, 6 * h : 6 * h + 6]
    leaves = {bert: ("self.value", "output.dense"), t5: ("v", "o"), vit: ("v_proj", "o_proj")}
    value, output = leaves.get(make, ("v_proj", "out_proj"))
    v, o = p[f"{name}.{value}.weight"], p[f"{name}.{output}.weight"]
    return v[4 * h : 4 * h + 4], o[:, 4 * h : 4 * h + 4]


def reference(make, before, after):
    """(layer, head) -> (||dOV||, ||OV||), the products formed in float64."""
    found = {}
    for name in LAYERS[make]:
        for h in range(4):
            (V, O), (V2, O2) = (factors(make, p, name, h) for p in (before, after))
            found[name, h] = (float((O2 @ V2 - O @ V).norm()), float((O @ V).norm()))
    return found


def doubles(model):
    return {n: p.detach().double() for n, p in model.named_parameters()}


def moved(model, delta):
    return {n: p + delta[n].dense().double() if n in delta else p for n, p in doubles(model).items()}


def trained(model, method, select=None, scale=0.05):
    adapter = attach(model, method, select)
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(scale * torch.randn(p.shape, generator=generator(0, name)))
    delta = adapter.delta()
    adapter.detach()
    return delta.bind(model)


METHODS = {
    "lora": lambda model: trained(model, LoRA(rank=2)),
    "full": lambda model: trained(model, Full()),
    "singular values": lambda model: trained(model, CLIPSVD()),
    "ternary": lambda model: compress(trained(model, Full()), density=0.3, scale="least-squares"),
    "sum": lambda model: trained(model, LoRA(rank=1)) - 0.5 * trained(model, Full(), "@linear"),
}


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", METHODS)
def test_products_of_every_family_and_kind_of_change(make, kind):
    if make is gpt2 and kind == "singular values":
        kind = "lora"  # fused: its own test below
    model = make()
    delta = METHODS[kind](model)
    expected = reference(make, doubles(model), moved(model, delta))
    found = changed_heads(model, delta)
    assert {head.place for head in found} == set(expected)
    for head in found:
        torch.testing.assert_close((head.change, head.size), expected[head.place], rtol=1e-6, atol=1e-9)
    assert [h.relative for h in found] == sorted((h.relative for h in found), reverse=True)


def test_slices_of_a_fused_projection():
    model = gpt2()
    delta = trained(model, CLIPSVD(), "*.c_attn:v")
    expected = reference(gpt2, doubles(model), moved(model, delta))
    for head in changed_heads(model, delta):
        torch.testing.assert_close((head.change, head.size), expected[head.place], rtol=1e-6, atol=1e-9)


def test_the_layer_that_is_left_alone_comes_last_with_zero():
    model = bert()
    found = changed_heads(model, trained(model, LoRA(rank=1), "encoder.layer.1.attention.self.value"))
    assert [h.layer for h in found] == ["encoder.layer.1.attention"] * 4 + ["encoder.layer.0.attention"] * 4
    assert [h.change for h in found[4:]] == [0.0] * 4
    assert [h.head for h in found[4:]] == [0, 1, 2, 3]


def test_turning_the_basis_of_a_head_changes_nothing():
    model = clip()
    name = "vision_model.encoder.layers.0.self_attn"
    tuned = copy.deepcopy(model).double()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator(0, "turn"), dtype=torch.float64)).Q
    attention = tuned.get_submodule(name)
    with torch.no_grad():
        attention.v_proj.weight[4:8] = turn @ attention.v_proj.weight[4:8]
        attention.out_proj.weight[:, 4:8] = attention.out_proj.weight[:, 4:8] @ turn.T
    base = copy.deepcopy(model).double()
    delta = extract(base, tuned)
    assert delta.norm() > 1.0
    assert max(head.relative for head in changed_heads(base, delta)) < 1e-6  # the delta is stored in float32


def released(before, after, heads):
    """The released interpretation: chunks of the sorted singular values of the whole W_V and W_O, ranked by |dS|."""
    change = torch.zeros(heads, dtype=torch.float64)
    for W, W2 in zip(before, after, strict=True):
        change += (torch.linalg.svdvals(W2) - torch.linalg.svdvals(W)).reshape(heads, -1).norm(dim=1)
    return change.argsort(descending=True).tolist()


def test_a_planted_head_is_found_where_bands_of_the_spectrum_name_another():
    model = clip()
    attention = model.vision_model.encoder.layers[1].self_attn
    with torch.no_grad():  # head 2 owns the largest singular values, so the first band is its own
        for weight, rows in ((attention.v_proj.weight, slice(8, 12)), (attention.out_proj.weight.T, slice(8, 12))):
            weight.zero_()
            weight.copy_(torch.diag(0.5 + 0.01 * torch.arange(16.0)))
            weight[rows] *= 4
    adapter = attach(model, CLIPSVD(), "vision_model.encoder.layers.1.self_attn.v_proj")
    with torch.no_grad():
        adapter.term("vision_model.encoder.layers.1.self_attn.v_proj.weight").shift[:4] = 0.3
    delta = adapter.delta()
    adapter.detach()
    found = changed_heads(model, delta)
    assert found[0].place == ("vision_model.encoder.layers.1.self_attn", 2)
    assert found[0].relative > 0.1 > 1e-6 > found[1].relative
    name = "vision_model.encoder.layers.1.self_attn."
    parts = [
        [p[name + leaf] for leaf in ("v_proj.weight", "out_proj.weight")]
        for p in (doubles(model), moved(model, delta.bind(model)))
    ]
    assert released(*parts, heads=4)[0] == 0


def test_a_planted_dense_change_of_one_head():
    model = clip()
    tuned = copy.deepcopy(model)
    attention = tuned.text_model.encoder.layers[0].self_attn
    with torch.no_grad():
        attention.v_proj.weight[12:16] += 0.02 * torch.randn(4, 16, generator=generator(0, "v"))
        attention.out_proj.weight[:, 12:16] += 0.02 * torch.randn(16, 4, generator=generator(0, "o"))
    found = changed_heads(model, extract(model, tuned))
    assert found[0].place == ("text_model.encoder.layers.0.self_attn", 3)
    assert found[1].change == 0.0
    parts = [
        [
            layers.text_model.encoder.layers[0].self_attn.get_parameter(f"{leaf}.weight").detach().double()
            for leaf in ("v_proj", "out_proj")
        ]
        for layers in (model, tuned)
    ]
    assert released(*parts, heads=4)[0] != 3


def test_small_changes_are_not_lost_behind_the_product():
    model = bert().double()
    name = "encoder.layer.0.attention.self.value.weight"
    step = torch.randn(16, 16, generator=generator(0, "step"), dtype=torch.float64)
    delta = Delta({name: Dense(1e-13 * step)})
    ten = Delta({name: Dense(1e-12 * step)})
    small, large = ({h.place: h.change for h in changed_heads(model, d)} for d in (delta, ten))
    for place in [("encoder.layer.0.attention", h) for h in range(4)]:
        assert math.isclose(10 * small[place], large[place], rel_tol=1e-9)


def test_attached_or_applied_the_base_is_what_counts():
    model = clip()
    delta = trained(model, LoRA(rank=2))
    expected = changed_heads(model, delta)
    adapter = attach(model, delta)
    assert changed_heads(model, delta) == expected
    adapter.detach()
    with applied(model, delta):
        assert changed_heads(model, delta) == expected


def test_a_head_that_wrote_nothing():
    assert HeadChange("a", 0, 1.0, 0.0).relative == math.inf
    assert HeadChange("a", 0, 0.0, 0.0).relative == 0.0


def test_errors():
    model = bert()
    with pytest.raises(ConfigError, match="no value and no output projection"):
        changed_heads(model, trained(model, LoRA(rank=1), "*.query"))
    with pytest.raises(ConfigError, match="no value and no output projection"):
        changed_heads(model, trained(model, BitFit()))
    delta = trained(model, LoRA(rank=1), "*.value")
    with pytest.raises(BaseMismatch):
        changed_heads(merge(model, delta), delta)
    linear = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(UnsupportedLayer, match="no attention"):
        changed_heads(linear, trained(linear, LoRA(rank=1)))
    with pytest.raises(ConfigError, match="expected one delta"):
        changed_heads(model, model)
