"""CLIP-SVD on image-text models: both towers, fused attention, layer ranges, exact counts, folding to plain weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, CLIPConfig, CLIPModel

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.core.apply import merge
from dtheta.core.seeds import generator
from dtheta.core.selection import select
from dtheta.models.dual import DualEncoder
from tests.unit.adapt.interpret.networks import clip

IDS = torch.tensor([[1, 7, 9, 3, 0], [1, 5, 3, 0, 0]])
MASK = (IDS != 0).long()


def pixels(size=16):
    return torch.randn(3, 3, size, size, generator=generator(0, "pixels"))


def logits(model, size=16):
    if isinstance(model, DualEncoder):
        return model(pixels(size), IDS, MASK)
    return model(pixel_values=pixels(size), input_ids=IDS, attention_mask=MASK).logits_per_image


def shaken(adapter, scale=0.05):
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(scale * torch.randn(p.shape, generator=generator(0, name)))


def test_both_towers_exact_at_the_start_and_folded_to_plain_weights():
    model = clip()
    before = logits(model).detach()
    adapter = attach(model, CLIPSVD())
    # per block: q, k, v, out and the two layers of the MLP, all with a short side of 16
    assert sum(p.numel() for p in adapter.trainable().values()) == 2 * 2 * 6 * 16
    assert torch.equal(logits(model), before)
    logits(model).sin().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable().values())
    shaken(adapter)
    after = logits(model).detach()
    delta = adapter.delta()
    adapter.detach()
    assert float((after - before).abs().max()) > 1e-3
    folded = merge(model, delta)
    assert type(folded) is CLIPModel
    assert {n: p.shape for n, p in folded.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    torch.testing.assert_close(logits(folded), after, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("@blocks#8-11", range(8, 12)),
        ("@blocks#4-7", range(4, 8)),
        ("@blocks#0-3", range(4)),
        ("@blocks#0-3|@blocks#8-11", [0, 1, 2, 3, 8, 9, 10, 11]),
    ],
)
def test_top_middle_and_bottom_layers_are_selections(pattern, numbers):
    names = [site.name for site in select(vit_b_16(), pattern)]
    assert len(names) == 2 * 6 * len(numbers)
    assert {name.split(".")[3] for name in names} == {str(i) for i in numbers}
    vision = [site.name for site in select(vit_b_16(), f"{pattern}|!text_model.*")]
    assert len(vision) == 6 * len(numbers)


def vit_b_16() -> CLIPModel:
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 16}
    with torch.device("meta"):
        return CLIPModel(CLIPConfig(vision_config=vision))


def test_number_of_singular_values_of_vit_b_16():
    model = vit_b_16()
    found = select(model)
    assert sum(CLIPSVD().count(min(site.shape)) for site in found) == 92_160  # the paper's
    assert sum(p.numel() for p in model.parameters()) == 149_620_737


class Block(nn.Module):
    """An attention block as open_clip has it."""

    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([nn.MultiheadAttention(16, 4, batch_first=True) for _ in range(2)])

    def forward(self, x):
        for attention in self.resblocks:
            x = x + attention(x, x, x, need_weights=False)[0]
        return x


def test_fused_attention_is_decomposed_by_q_k_and_v():
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 5, 16, generator=generator(0, "x"))
    before = model(x)
    adapter = attach(model, CLIPSVD())
    name = "resblocks.0.in_proj_weight"
    assert [k for k in adapter.sites if k.startswith("resblocks.0")] == [
        *(f"{name}[{part}]" for part in "qkv"),
        "resblocks.0.out_proj.weight",
    ]
    torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        adapter.term(f"{name}[v]").shift[0] = 0.7
    moved = model(x).detach()
    delta = adapter.delta()
    adapter.detach()
    weight = model.resblocks[0].in_proj_weight.detach()
    U, S, Vh = torch.linalg.svd(weight[32:])
    expected = weight.clone()
    expected[32:] = U @ torch.diag(S + 0.7 * (torch.arange(16) == 0)) @ Vh
    folded = merge(model, delta)
    torch.testing.assert_close(folded.resblocks[0].in_proj_weight.detach(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(folded(x), moved, rtol=1e-5, atol=1e-6)


def test_dual_encoder_with_its_convolutions():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=50)
    model = DualEncoder(config).eval()
    before = logits(model, 64).detach()
    adapter = attach(model, CLIPSVD(), "@blocks|image.*#5-6")
    kinds = {site.kind for site in adapter.sites.values()}
    assert kinds == {"linear", "conv"}
    torch.testing.assert_close(logits(model, 64), before, rtol=1e-5, atol=1e-5)
    shaken(adapter, 0.02)
    after = logits(model, 64).detach()
    assert float((after - before).abs().max()) > 1e-4
    delta = adapter.delta()
    adapter.detach()
    torch.testing.assert_close(logits(merge(model, delta), 64), after, rtol=1e-3, atol=1e-4)
    assert torch.equal(logits(model, 64), before)
