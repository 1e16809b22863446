"""What a head writes, in words: contributions that add up to the embedding, and captions that were planted."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.interpret.captions import caption_features, describe_heads, head_contributions, text_span
from dtheta.adapt.lora import LoRA
from dtheta.core.apply import applied, merge
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer
from tests.unit.adapt.interpret.networks import bert, clip

LAYER = "vision_model.encoder.layers.1.self_attn"
CAPTIONS = [f"{color} {shape}" for color in ("red", "blue") for shape in ("dot", "bar", "ring")]


def images(count=9):
    return torch.randn(count, 3, 16, 16, generator=generator(0, "images"))


def tokenizer(texts):
    """Ids of a text: begin, a number of each letter, end, padding; as open_clip's tokenizers return them."""
    rows = [[1, *(4 + ord(c) % 46 for c in text[:10]), 3] for text in texts]
    return torch.tensor([row + [0] * (12 - len(row)) for row in rows])


def draws(*shape, name="draws"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def parts_of(model, pixels):
    """The embedding, its constant, and the contributions of everything in the image tower that is no head."""
    vision, held = model.vision_model, {}
    hooks = [vision.post_layernorm.register_forward_pre_hook(lambda _, x: held.__setitem__("stream", x[0]))]
    hooks += [vision.pre_layrnorm.register_forward_hook(lambda _, x, y: held.__setitem__("start", y[:, 0]))]
    for i, block in enumerate(vision.encoder.layers):
        hooks.append(block.mlp.register_forward_hook(lambda _, x, y, i=i: held.__setitem__(i, y[:, 0])))
    with torch.no_grad():
        embedding = model.get_image_features(pixel_values=pixels).pooler_output
    for hook in hooks:
        hook.remove()
    rest = held["start"] + held[0] + held[1]
    rest = rest + sum(block.self_attn.out_proj.bias for block in vision.encoder.layers)
    norm, stream = vision.post_layernorm, held["stream"]
    rest = (rest - rest.mean(1, keepdim=True)) / (stream.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    return embedding, model.visual_projection(norm.bias), model.visual_projection(rest * norm.weight)


def test_heads_and_the_rest_add_up_to_the_embedding():
    model = clip()
    for p in model.vision_model.parameters():  # no bias is zero and no scale one
        p.data.add_(0.1 * torch.randn(p.shape, generator=generator(0, "noise")))
    heads = [(f"vision_model.encoder.layers.{i}.self_attn", h) for i in range(2) for h in range(4)]
    found = head_contributions(model, heads, images())
    assert found.shape == (8, 9, 12)
    embedding, constant, rest = parts_of(model, images())
    torch.testing.assert_close(found.sum(0) + rest + constant, embedding, rtol=1e-4, atol=1e-5)


def test_batches_do_not_show():
    model, pixels = clip(), images(70)
    whole = head_contributions(model, [(LAYER, 1)], pixels)
    torch.testing.assert_close(
        whole[:, 60:], head_contributions(model, [(LAYER, 1)], pixels[60:]), rtol=1e-5, atol=1e-6
    )


def test_planted_directions_are_picked_in_order_with_their_shares():
    texts = draws(20, 12, name="texts")
    texts = F.normalize(texts - texts.mean(0), dim=1)
    first = texts[4] - texts.mean(0)
    second = texts[11] - texts.mean(0)
    second = second - F.normalize(first, dim=0) * (second @ F.normalize(first, dim=0))
    a, b = draws(50, 1, name="a"), draws(50, 1, name="b")
    contributions = 3.0 + 5 * a * F.normalize(first, dim=0) + b * F.normalize(second, dim=0)
    found = text_span(contributions, texts, 5)
    assert [n for n, _ in found] == [4, 11]  # two dimensions, and nothing left
    assert sum(share for _, share in found) == pytest.approx(1.0, abs=1e-9)
    expected = (5 * (a - a.mean()) + (b - b.mean()) * 0).square().sum()
    total = (contributions - contributions.mean(0)).square().sum()
    assert found[0][1] == pytest.approx(float(expected / total), rel=1e-6)


def test_against_a_plain_loop():
    texts, C = F.normalize(draws(15, 12, name="texts"), dim=1), draws(30, 12, name="C") * torch.arange(1.0, 13.0)
    expected, left, total = [], C - C.mean(0), float((C - C.mean(0)).square().sum())
    R = F.normalize(texts - texts.mean(0), dim=1)  # 30 images span all 12 features
    for _ in range(4):
        variance = [float((left @ r).var(correction=0)) for r in R]
        best = max(range(15), key=variance.__getitem__)
        before = float(left.square().sum())
        P = torch.eye(12, dtype=torch.float64) - torch.outer(R[best], R[best]) / R[best].square().sum()
        left, R = left @ P, R @ P
        expected.append((best, (before - float(left.square().sum())) / total))
    found = text_span(C, texts, 4)
    assert [n for n, _ in found] == [n for n, _ in expected]
    torch.testing.assert_close([s for _, s in found], [s for _, s in expected], rtol=1e-8, atol=1e-12)


def planted(model, head, caption):
    """Let a head write along the difference of a caption's embedding from the mean, and nothing else."""
    texts = caption_features(model, tokenizer, CAPTIONS).double()
    wanted = texts[CAPTIONS.index(caption)] - texts.mean(0)
    center = torch.eye(16, dtype=torch.float64) - 1 / 16
    projection = model.visual_projection.weight.detach().double() @ center
    with torch.no_grad():
        columns = model.vision_model.encoder.layers[1].self_attn.out_proj.weight[:, 4 * head : 4 * head + 4]
        columns.copy_(torch.linalg.lstsq(projection, wanted[:, None]).solution @ torch.ones(1, 4, dtype=torch.float64))


def test_the_caption_that_was_planted_in_a_head_is_found():
    model = clip()
    planted(model, 2, "blue ring")
    (other,), (found,) = (describe_heads(model, tokenizer, [(LAYER, h)], images(), CAPTIONS, 2) for h in (1, 2))
    assert found[0].text == "blue ring"
    assert found[0].explained == pytest.approx(1.0, abs=1e-5)
    assert other[0].explained < 0.9


def test_a_delta_is_described_while_it_is_applied():
    model = clip()
    adapter = attach(model, LoRA(rank=2), "*.out_proj")
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(torch.randn(p.shape, generator=generator(0, name)))
    delta = adapter.delta()
    with pytest.raises(ConfigError, match="applied"):
        describe_heads(model, tokenizer, [(LAYER, 0)], images(), CAPTIONS)
    adapter.detach()
    expected = head_contributions(merge(model, delta), [(LAYER, 3)], images())
    with applied(model, delta):
        torch.testing.assert_close(head_contributions(model, [(LAYER, 3)], images()), expected)
    assert not torch.allclose(head_contributions(model, [(LAYER, 3)], images()), expected, rtol=1e-3)


def test_the_model_is_left_as_it_was():
    model = clip().train()
    head_contributions(model, [(LAYER, 0)], images())
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_errors():
    model = clip()
    for heads, message in (
        ([], "no heads"),
        ([("text_model.encoder.layers.1.self_attn", 0)], "image tower.*did you mean"),
        ([(LAYER, 4)], "heads 0 to 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            head_contributions(model, heads, images())
    with pytest.raises(ConfigError, match="at least two images"):
        head_contributions(model, [(LAYER, 0)], images(1))
    with pytest.raises(UnsupportedLayer, match="CLIPModel"):
        head_contributions(bert(), [("encoder.layer.0.attention", 0)], images())
    with pytest.raises(ConfigError, match="count"):
        describe_heads(model, tokenizer, [(LAYER, 0)], images(), CAPTIONS, 0)
    with pytest.raises(ConfigError, match="captions"):
        text_span(draws(3, 12), draws(1, 12))
    with pytest.raises(ShapeMismatch):
        text_span(draws(3, 12), draws(3, 11))


def test_nothing_varies():
    assert text_span(torch.ones(3, 12), draws(3, 12)) == []
