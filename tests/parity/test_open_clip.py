"""Prompts and singular values on real open_clip towers, against forwards written by hand from its modules.

Skipped unless open_clip is found. It pulls in torchvision, which must not stand beside a CPU build of torch: give both
a folder of their own. What torchvision's build for CUDA lacks here is declared below, before it is imported.

    pip install --no-deps --target FOLDER open_clip_torch==3.3.0 torchvision==0.28.0 timm ftfy regex wcwidth
    PYTHONPATH=FOLDER python -m pytest tests/parity/test_open_clip.py
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dtheta as dt

pytestmark = pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
CLASSES = ("cat", "dog", "house")
METHODS = [
    dt.CoOp(length=4),
    dt.CoOp(length=4, per_class=True),
    dt.VPT(length=3),
    dt.VPT(length=3, deep=False),
    dt.UPT(length=2),
    dt.CoCoOp(length=2),
    dt.CLIPSVD(),
    dt.LoRA(rank=2),
]


@pytest.fixture(scope="module")
def declared() -> Any:
    library = torch.library.Library("torchvision", "FRAGMENT")
    if not hasattr(torch.ops.torchvision, "nms"):
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.fixture(scope="module")
def clip(declared: Any) -> Any:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # type: ignore[import-not-found]

    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=3, width=64, head_width=16, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=40, vocab_size=49408, width=48, heads=3, layers=3)
    return CLIP(32, vision, text).eval()


@pytest.fixture(scope="module")
def tokenizer(declared: Any) -> Any:
    import open_clip  # type: ignore[import-not-found]

    return open_clip.SimpleTokenizer(context_length=40)


@pytest.fixture(scope="module")
def net(clip: Any, tokenizer: Any) -> dt.ImageTextClassifier:
    return dt.image_text_classifier(clip, tokenizer, CLASSES)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def prompts(tokenizer: Any) -> Tensor:
    return tokenizer([f"a photo of a {name}." for name in CLASSES])


def logits(clip: Any, image: Tensor, text: Tensor) -> Tensor:
    return clip.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


@torch.no_grad()
def test_zero_shot(clip: Any, tokenizer: Any, net: Any, images: Tensor) -> None:
    expected = logits(clip, clip.encode_image(images), clip.encode_text(prompts(tokenizer)))
    torch.testing.assert_close(net(pixel_values=images).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_training_lowers_the_loss_and_detaching_restores_every_bit(net: Any, images: Tensor, method: Any) -> None:
    before, labels = net(pixel_values=images).logits.detach(), torch.arange(12) % 3
    adapter = dt.attach(net, method)
    losses = dt.fit(adapter, [{"pixel_values": images, "labels": labels}], steps=12, lr=0.02, quiet=True).losses
    delta, after = adapter.delta(), net(pixel_values=images).logits.detach()
    adapter.detach()
    assert losses[-1][1] < losses[0][1]
    assert torch.equal(net(pixel_values=images).logits, before)
    again = dt.attach(net, delta)
    torch.testing.assert_close(net(pixel_values=images).logits.detach(), after, atol=1e-5, rtol=0)
    again.detach()


@torch.no_grad()
def test_context_equals_a_forward_by_hand(clip: Any, tokenizer: Any, net: Any, images: Tensor) -> None:
    adapter = dt.attach(net, dt.CoOp(length=4, position="end"))
    (context,), found = (change.dense() for change in adapter.delta().changes.values()), net(pixel_values=images).logits
    adapter.detach()
    ids = torch.stack([torch.cat([row[:1], torch.full((4,), 5), row[1:-4]]) for row in prompts(tokenizer)])
    states = clip.token_embedding(ids)
    states[:, 1:5] = context
    states = clip.ln_final(clip.transformer(states + clip.positional_embedding, attn_mask=clip.attn_mask))
    text = states[torch.arange(3), ids.argmax(-1)] @ clip.text_projection
    torch.testing.assert_close(found, logits(clip, clip.encode_image(images), text), atol=1e-5, rtol=0)


@torch.no_grad()
def test_deep_visual_prompts_equal_a_forward_by_hand(clip: Any, tokenizer: Any, net: Any, images: Tensor) -> None:
    adapter = dt.attach(net, dt.VPT(length=3))
    delta, found = adapter.delta(), net(pixel_values=images).logits
    adapter.detach()
    visual = clip.visual
    patches = visual.conv1(images).flatten(2).mT
    states = torch.cat([visual.class_embedding.expand(12, 1, -1), patches], 1) + visual.positional_embedding
    states = visual.ln_pre(states)
    rest = states[:, 1:]
    for layer, block in enumerate(visual.transformer.resblocks):
        virtual = delta[f"prompt.visual.{layer}"].dense().expand(12, -1, -1)
        states = block(torch.cat([states[:, :1], virtual, rest], 1))
        rest = states[:, 4:]
    image = visual.ln_post(states[:, 0]) @ visual.proj
    expected = logits(clip, image, clip.encode_text(prompts(tokenizer)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
