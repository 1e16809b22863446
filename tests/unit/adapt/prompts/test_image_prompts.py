"""All prompts of image-text models: as deltas, side by side, in training, and on every kind of model."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.cocoop import CoCoOp
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.adapt.registry import method_class, method_names
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.tensors import attached_to
from dtheta.errors import ShapeMismatch, UnsupportedLayer
from dtheta.fit.loop import fit
from tests.unit.adapt.prompts import image_models as im

METHODS = [CoOp(3), CoOp(2, "end", per_class=True), VPT(2), VPT(3, deep=False), UPT(2, 8), CoCoOp(2)]


def logits(classifier: Any) -> Tensor:
    return classifier(im.pictures()).logits.detach()


def trained(method: Method, seed: int = 0) -> Delta:
    return im.shake(attach(im.make_classifier(im.make_clip()), method, seed=seed), seed).delta()


def test_methods_are_registered() -> None:
    for method in METHODS:
        assert method.name in method_names() and method_class(method.name.lower()) is type(method)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_saved_and_attached_again_to_the_last_bit(method: Method, tmp_path: Path) -> None:
    classifier = im.make_classifier(im.make_clip())
    adapter = im.shake(attach(classifier, method))
    expected, delta = logits(classifier), adapter.delta()
    delta.save(tmp_path / "a.delta")
    fresh = im.make_classifier(im.make_clip())
    again = attach(fresh, load(tmp_path / "a.delta", fresh))
    assert torch.equal(logits(fresh), expected)
    assert again.method == method and again.delta().digest == delta.digest
    fresh(im.pictures(), labels=torch.tensor([0, 1, 2, 1])).loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in again.trainable().values())
    assert all(p.grad is None for p in fresh.parameters())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_sums_means_and_negatives_attach(method: Method) -> None:
    a, b = trained(method, 1), trained(method, 2)
    for made, want in ((a + b, (1, 1)), (0.5 * (a + b), (0.5, 0.5)), (-a, (-1, 0)), (a - 0.3 * b, (1, -0.3))):
        classifier = im.make_classifier(im.make_clip())
        adapter = attach(classifier, made)
        found = logits(classifier)
        for name in adapter.grafts:
            dense = want[0] * a[name].dense() + want[1] * b[name].dense()
            assert torch.allclose(im.vectors(adapter, name), dense, atol=1e-6)
        adapter.detach()
        attach(classifier, [a, b], weights=want)
        assert torch.allclose(logits(classifier), found, atol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_weight_is_that_of_the_delta(method: Method) -> None:
    classifier, delta = im.make_classifier(im.make_clip()), trained(method)
    adapter = attach(classifier, delta, weight=0.5)
    found = logits(classifier)
    half = adapter.delta()
    adapter.detach()
    attach(classifier, half)
    assert torch.allclose(logits(classifier), found, atol=1e-5)


def test_deltas_of_both_towers_in_one() -> None:
    classifier, a, b = im.make_classifier(im.make_clip()), trained(CoOp(2)), trained(VPT(2))
    adapters = [attach(classifier, delta) for delta in (a, b)]
    expected = logits(classifier)
    for adapter in adapters:
        adapter.detach()
    one = attach(classifier, a + b)
    assert torch.equal(logits(classifier), expected)
    one.detach()
    for other in (trained(CoOp(2, "end")), trained(UPT(2, 8))):
        with pytest.raises(ShapeMismatch, match="one prompt has one context"):
            attach(classifier, a + other)
    assert not attached_to(classifier)


def test_in_bfloat16() -> None:
    """What trains stays in float32 and enters in the dtype of the model."""
    classifier = im.make_classifier(im.make_clip().bfloat16())
    for method in METHODS:
        adapter = attach(classifier, method)
        found = classifier(im.pictures().bfloat16(), labels=torch.tensor([0, 1, 2, 0]))
        found.loss.backward()
        assert found.logits.dtype == torch.bfloat16 and bool(torch.isfinite(found.logits).all())
        assert all(p.dtype == torch.float32 and p.grad is not None for p in adapter.trainable().values())
        adapter.detach()


@pytest.mark.parametrize("first", [0, 1])
def test_side_by_side_in_any_order(first: int) -> None:
    model = im.make_clip()
    classifier = im.make_classifier(model)
    before = logits(classifier)
    a = im.shake(attach(classifier, CoOp(2)))
    alone = logits(classifier)
    b = im.shake(attach(model, VPT(2)), 2)  # on the model inside
    c = im.shake(attach(classifier, UPT(2, 8)), 3)
    together = logits(classifier)
    with c.disabled(), b.disabled():
        assert torch.allclose(logits(classifier), alone, atol=1e-6)
    c.detach()
    assert not torch.allclose(logits(classifier), together, atol=1e-3)
    pair = [a, b] if first == 0 else [b, a]
    pair[0].detach()
    assert attached_to(classifier)
    pair[1].detach()
    assert torch.equal(logits(classifier), before)
    assert not attached_to(classifier) and "forward" not in model.text_model.__dict__
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_the_context_behind_another_stands_beside_it() -> None:
    model = im.make_clip()
    first, second = im.shake(attach(model, CoOp(4, "middle"))), im.shake(attach(model, CoOp(3, "front")), 2)
    u, v = im.vectors(first, "prompt.text"), im.vectors(second, "prompt.text.front")
    table = model.text_model.embeddings.token_embedding.weight
    rows = [torch.cat([table[[im.BOS]], u[:2], table[name], u[2:], v, table[[im.EOS]]]) for name in im.NAMES]
    assert torch.allclose(model.get_text_features(**im.texts()).pooler_output, im.text_features(model, rows), atol=2e-6)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_copy_has_a_prompt_of_its_own(method: Method) -> None:
    classifier = im.make_classifier(im.make_clip())
    adapter = im.shake(attach(classifier, method))
    expected = logits(classifier)
    twin = copy.deepcopy(adapter)
    im.shake(adapter, 3)
    assert torch.equal(logits(twin), expected) and not torch.allclose(logits(classifier), expected, atol=1e-4)
    twin.detach()
    assert not attached_to(twin.model) and attached_to(classifier)


@pytest.mark.parametrize(
    ("name", "method"), [*(("clip", m) for m in METHODS), ("dual", CoOp(3)), ("dual", CoCoOp(2))], ids=repr
)
def test_training_lowers_the_loss(name: str, method: Method) -> None:
    classifier = im.make_classifier(im.make_clip() if name == "clip" else im.make_dual())
    # the untrained CNN sees all images alike, so that only a label of all of them can be learned
    labels = torch.tensor([0, 1, 2, 0]) if name == "clip" else torch.zeros(4, dtype=torch.long)
    batch = {"pixel_values": im.pictures(), "labels": labels}
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    adapter = attach(classifier, method)
    start = float(classifier(**batch).loss.detach())
    fit(adapter, [batch], steps=12, lr=0.01 if method.name == "UPT" else 0.1, quiet=True)
    assert float(classifier(**batch).loss.detach()) < (0.9 if name == "clip" else 0.99) * start
    adapter.detach()
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())


def test_training_of_a_clip_by_its_own_loss() -> None:
    model = im.make_clip()
    batch = {**im.texts(), "pixel_values": im.pictures(3), "return_loss": True}
    adapter = attach(model, UPT(2, 8))
    start = float(model(**batch).loss.detach())
    fit(adapter, [batch], steps=12, lr=0.01, quiet=True)
    assert float(model(**batch).loss.detach()) < 0.9 * start


def test_activation_checkpointing() -> None:
    model = im.make_clip()
    classifier = im.make_classifier(model)
    adapter = im.shake(attach(classifier, UPT(2, 8)))
    labels, grads = torch.tensor([0, 1, 2, 0]), []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
            classifier.train()
        classifier(im.pictures(), labels=labels).loss.backward()
        grads.append({name: p.grad for name, p in adapter.trainable().items()})
        adapter.zero_grad()
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


class Block(nn.Module):
    """A pre-norm block as open_clip's are called."""

    def __init__(self, width: int, batch_first: bool) -> None:
        super().__init__()
        self.norm, self.batch_first = nn.LayerNorm(width), batch_first
        self.attn = nn.MultiheadAttention(width, 2, batch_first=batch_first)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        h = self.norm(x)
        return x + self.attn(h, h, h, need_weights=False, attn_mask=attn_mask)[0]


class Transformer(nn.Module):
    """Blocks; states are (B, T, d) outside and may be (T, B, d) inside."""

    def __init__(self, width: int, layers: int, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.resblocks = nn.ModuleList(Block(width, batch_first) for _ in range(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x if self.batch_first else x.transpose(0, 1)


class Visual(nn.Module):
    """A vision transformer with open_clip's names."""

    pool_type = "tok"

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(24))
        self.positional_embedding = nn.Parameter(torch.randn(5, 24))
        self.ln_pre, self.ln_post = nn.LayerNorm(24), nn.LayerNorm(24)
        self.transformer = Transformer(24, 2, batch_first)
        self.proj = nn.Parameter(torch.randn(24, 12))

    def forward(self, image: Tensor, between: Tensor | None = None) -> Tensor:
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        if between is not None:  # the reference of the test
            x = torch.cat([x[:, :1], between.expand(len(x), -1, -1), x[:, 1:]], 1)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class CLIP(nn.Module):
    """A model with open_clip's names: texts have all columns, and are pooled at their largest id."""

    text_pool_type = "argmax"
    context_length = 20

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(batch_first), Transformer(16, 2, batch_first)
        self.token_embedding = nn.Embedding(50, 16)
        self.positional_embedding = nn.Parameter(torch.randn(20, 16))
        self.ln_final, self.text_projection = nn.LayerNorm(16), nn.Parameter(torch.randn(16, 12))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("attn_mask", torch.full((20, 20), -torch.inf).triu(1), persistent=False)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return self.visual(image)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return self.read(self.token_embedding(text), text.argmax(-1))

    def read(self, x: Tensor, end: Tensor) -> Tensor:
        x = self.transformer(x + self.positional_embedding, attn_mask=self.attn_mask)
        return self.ln_final(x)[torch.arange(len(x)), end] @ self.text_projection


@pytest.fixture(params=[True, False])
def open_clip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CLIP:
    """A model of a stand-in for open_clip, whose states are batch first or not."""
    module = ModuleType("open_clip.model")
    module.CLIP = CLIP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip.model", module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIP(request.param).eval()


def test_open_clips_names(open_clip: CLIP) -> None:
    ids = torch.tensor([[im.BOS, *name, im.EOS] + [0] * (18 - len(name)) for name in im.NAMES])
    images, before = im.pictures(), open_clip.encode_text(ids)
    text, shallow = im.shake(attach(open_clip, CoOp(4, "middle"))), im.shake(attach(open_clip, VPT(2, deep=False)))
    u, table = im.vectors(text, "prompt.text"), open_clip.token_embedding.weight
    rows = [torch.cat([table[[im.BOS]], u[:2], table[name], u[2:], table[[im.EOS]]]) for name in im.NAMES]
    wide = torch.stack([nn.functional.pad(row, (0, 0, 0, 20 - len(row))) for row in rows])
    expected = open_clip.read(wide, torch.tensor([len(row) - 1 for row in rows]))
    assert torch.allclose(open_clip.encode_text(ids), expected, atol=1e-5)
    column = im.vectors(shallow, "prompt.visual.0")
    found = open_clip.encode_image(images)
    shallow.detach()
    assert torch.allclose(found, open_clip.visual(images, between=column), atol=1e-6)
    deep = im.shake(attach(open_clip, UPT(2, 8)))
    (open_clip.encode_image(images).sum() + open_clip.encode_text(ids).sum()).backward()
    assert all(bool(p.grad.any()) for p in deep.trainable().values() if p.grad is not None)
    assert all(p.grad is not None for p in deep.trainable().values())
    deep.detach()
    text.detach()
    assert torch.equal(open_clip.encode_text(ids), before) and "encode_text" not in open_clip.__dict__


def test_towers_of_open_clip_that_are_refused(open_clip: CLIP) -> None:
    open_clip.visual.pool_type = "avg"
    with pytest.raises(UnsupportedLayer, match=r"pools over all columns \('avg'\)"):
        attach(open_clip, VPT(2))
    open_clip.visual = nn.Conv2d(3, 3, 3)  # type: ignore[assignment]
    with pytest.raises(UnsupportedLayer, match="its vision tower is a Conv2d"):
        attach(open_clip, UPT(2))
    open_clip.text_pool_type = "last"
    with pytest.raises(UnsupportedLayer, match="pools by 'last'; expected 'argmax'"):
        attach(open_clip, CoOp(2))
