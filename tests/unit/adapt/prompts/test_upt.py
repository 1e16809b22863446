"""UPT: its mixer against torch's modules, once a forward, cached without gradients, and folded to constants."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import Restored, attach
from dtheta.adapt.prompts import tower_bundle
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.mixer import drawn_mixer, mixer_shapes
from dtheta.adapt.prompts.upt import UPT
from dtheta.adapt.prompts.vpt import VPT
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer
from tests.unit.adapt.prompts import image_models as im


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def reference(weights: dict[str, Tensor], text: Tensor, visual: list[Tensor], width: int) -> list[Tensor]:
    """Return what the mixer makes, by torch's own modules."""
    attention = nn.MultiheadAttention(width, 1, batch_first=True)
    norms = nn.LayerNorm(width), nn.LayerNorm(width)
    network = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def load(module: nn.Module, part: str, **names: str) -> None:
        given = names or {"weight": "weight", "bias": "bias"}
        module.load_state_dict({k: weights[f"prompt.mixer.{part}.{v}"] for k, v in given.items()})

    in_proj = {k: weights[f"prompt.mixer.attention_in.{k}"] for k in ("weight", "bias")}
    out_proj = {f"out_proj.{k}": weights[f"prompt.mixer.attention_out.{k}"] for k in ("weight", "bias")}
    attention.load_state_dict({"in_proj_weight": in_proj["weight"], "in_proj_bias": in_proj["bias"], **out_proj})
    for module, part in zip([*norms, network[0], network[2]],
                            ["attention_norm", "network_norm", "network_up", "network_down"], strict=True):  # fmt: skip
        load(module, part)

    def mapped(x: Tensor, part: str) -> Tensor:
        weight = weights.get(f"prompt.mixer.{part}.weight")
        return x if weight is None else x @ weight.T + weights[f"prompt.mixer.{part}.bias"]

    h = torch.cat([mapped(text, "text_in"), *(mapped(v, "visual_in") for v in visual)])[None]
    normed = norms[0](h)
    h = h + attention(normed, normed, normed)[0]
    h = (h + network(norms[1](h)))[0]
    parts = h.split([len(text), *map(len, visual)])
    return [mapped(parts[0], "text_out"), *(mapped(part, "visual_out") for part in parts[1:])]


@pytest.mark.parametrize("width", [8, 16, 24])
@pytest.mark.parametrize("per_class", [False, True])
def test_equal_to_modules_of_torch(width: int, per_class: bool) -> None:
    model = im.make_clip()
    classifier = im.make_classifier(model)
    adapter = im.shake(attach(classifier, UPT(3, width, "front", per_class)))
    values = {name: im.vectors(adapter, name) for name in adapter.grafts}
    place = f"prompt.mixed.text.front{'.classes.3' if per_class else ''}"
    visual = [values[f"prompt.mixed.visual.{layer}"] for layer in range(3)]
    with torch.no_grad():
        text, *columns = reference(values, values[place], visual, width)
        found = classifier(im.pictures()).logits
    contexts = list(text.reshape(3, 3, 16)) if per_class else [text] * 3
    image = im.image_features(model, im.pictures(), dict(enumerate(columns)))
    texts = im.text_features(model, im.with_context(model, contexts, "front"))
    assert torch.allclose(found, im.cosines(image, texts, model), atol=3e-5)


def test_parameters_as_published() -> None:
    """4 vectors beside a text of 512 and 12 layers of 768 features."""
    shapes = mixer_shapes(128, 512, 768)
    count = {name: sum(torch.Size(s).numel() for part, s in shapes.items() if part.startswith(name))
             for name in ("text_in", "text_out", "visual_in", "visual_out", "attention", "network")}  # fmt: skip
    maps = (count["text_in"], count["text_out"], count["visual_in"], count["visual_out"])
    assert maps == (65_664, 66_048, 98_432, 99_072)
    block = 2 * 2 * 128 + (3 * 128 * 128 + 3 * 128) + (128 * 128 + 128) + (8 * 128 * 128 + 4 * 128 + 128)
    assert count["attention"] + count["network"] == block == 198_272
    assert 4 * 512 + 12 * 4 * 768 + sum(maps) + block == 566_400


def test_start_is_that_of_torchs_modules() -> None:
    drawn = {name.removeprefix("prompt.mixer."): t for name, t in drawn_mixer(128, 512, 768, 0, torch.float32).items()}
    bounds = {"text_in.weight": 512**-0.5, "text_in.bias": 512**-0.5, "visual_out.weight": 128**-0.5}
    bounds |= {"attention_in.weight": (6 / 512) ** 0.5, "network_down.weight": 512**-0.5}
    for part, bound in bounds.items():
        assert 0.9 * bound < float(drawn[part].abs().max()) <= bound
    assert not drawn["attention_in.bias"].any() and not drawn["attention_out.bias"].any()
    assert bool((drawn["attention_norm.weight"] == 1).all()) and not drawn["network_norm.bias"].any()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every run of a mixer."""
    runs: list[int] = []
    plain = tower_bundle.mixed
    monkeypatch.setattr(tower_bundle, "mixed", lambda *given: (runs.append(1), plain(*given))[1])
    return runs


def test_once_a_forward_and_follows_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, given = im.make_clip(), im.pictures(), im.texts()
    adapter, runs = im.shake(attach(model, UPT(2, 8))), counted(monkeypatch)

    def logits() -> Tensor:
        return model(**given, pixel_values=images).logits_per_image

    live = logits()
    assert len(runs) == 1  # once for both towers and all layers
    live.sum().backward()
    logits().sum().backward()
    assert len(runs) == 2
    with torch.no_grad():
        assert torch.equal(logits(), live.detach()) and torch.equal(logits(), live.detach())
        assert torch.equal(
            model.get_image_features(images).pooler_output, model.get_image_features(images).pooler_output
        )
        assert len(runs) == 6
        im.shake(adapter, 5)
        moved = logits()
        assert len(runs) == 7 and not torch.allclose(moved, live, atol=1e-3)
        adapter.weight = 0.5
        assert not torch.allclose(logits(), moved, atol=1e-3)
        adapter.weight = 1.0
        assert torch.equal(logits(), moved)
    with torch.inference_mode():
        assert torch.equal(logits(), moved)
    assert torch.equal(logits().detach(), moved)


def test_towers_alone_train(monkeypatch: pytest.MonkeyPatch) -> None:
    model = im.make_clip()
    adapter, runs = im.shake(attach(model, UPT(2, 8))), counted(monkeypatch)
    for _ in range(2):
        loss = model.get_image_features(im.pictures()).pooler_output.sum()
        (loss + model.get_text_features(**im.texts()).pooler_output.sum()).backward()
    assert len(runs) == 4
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable().values())
    twin = copy.deepcopy(adapter)  # no graph is left behind
    assert torch.equal(
        twin.get_text_features(**im.texts()).pooler_output, model.get_text_features(**im.texts()).pooler_output
    )


def test_writes_through_data_are_seen() -> None:
    model = im.make_clip()
    adapter = im.shake(attach(model, UPT(2, 8)))
    with torch.no_grad():
        model(**im.texts(), pixel_values=im.pictures())
        for p in adapter.trainable().values():
            p.data.mul_(1.5)
        after = model(**im.texts(), pixel_values=im.pictures()).logits_per_image
    assert torch.equal(after, model(**im.texts(), pixel_values=im.pictures()).logits_per_image.detach())


def test_an_interrupt_leaves_nothing_behind() -> None:
    model = im.make_clip()
    adapter = im.shake(attach(model, UPT(2, 8)))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.vision_model.post_layernorm.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        model(**im.texts(), pixel_values=im.pictures())
    handle.remove()
    for _ in range(2):  # a graph that was kept could be walked back once only
        model(**im.texts(), pixel_values=im.pictures()).logits_per_image.sum().backward()
    assert all(p.grad is not None for p in adapter.trainable().values())


def test_a_mixer_that_failed_is_run_again() -> None:
    model = im.make_clip()
    adapter = im.shake(attach(model, UPT(2, 8)))
    expected = model(**im.texts(), pixel_values=im.pictures()).logits_per_image.detach()
    for _ in range(2):
        with pytest.raises(Exception, match=r"has no end|channels"):
            model(input_ids=torch.tensor([[48, 3]]), pixel_values=im.pictures())
        model(**im.texts(), pixel_values=im.pictures()).logits_per_image.sum().backward()
    assert torch.equal(model(**im.texts(), pixel_values=im.pictures()).logits_per_image, expected)
    assert adapter.attached


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_folded_equals_live(weight: float) -> None:
    model, images, given = im.make_clip(), im.pictures(), im.texts()
    adapter = im.shake(attach(model, UPT(3, 8), weight=weight))
    live = model(**given, pixel_values=images).logits_per_image.detach()
    folded, kept = adapter.folded(), adapter.delta()
    assert list(folded) == ["prompt.text", "prompt.visual.0", "prompt.visual.1", "prompt.visual.2"]
    assert {type(change) for change in folded.changes.values()} == {New}
    assert folded.provenance.parents == [kept.digest] and folded.base.root == kept.base.root
    adapter.detach()
    again = attach(model, folded)
    assert isinstance(again.method, Restored)
    assert torch.allclose(model(**given, pixel_values=images).logits_per_image, live, atol=1e-6)
    again.detach()
    again = attach(model, kept)
    assert again.method == UPT(3, 8) and len(again.grafts) == len(kept)
    assert torch.allclose(model(**given, pixel_values=images).logits_per_image, live, atol=1e-6)
    with pytest.raises(ConfigError, match="this adapter is detached"):
        adapter.folded()


@pytest.mark.parametrize("method", [CoOp(3), VPT(2)])
def test_folded_vectors_are_the_delta(method: Any) -> None:
    adapter = attach(im.make_clip(), method)
    assert adapter.folded().digest == adapter.delta().digest


def test_under_autocast_the_mixer_stays_in_float32() -> None:
    model = im.make_clip()
    adapter = im.shake(attach(model, UPT(2, 8)))
    prompt = adapter._links[0].prompt  # type: ignore[union-attr]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = {name: values.detach() for name, values in prompt.vectors(1.0).items()}
        logits = model(**im.texts(), pixel_values=im.pictures()).logits_per_image
    outside = prompt.vectors(1.0)
    assert all(torch.equal(inside[name], outside[name]) for name in outside)
    assert bool(torch.isfinite(logits).all())


def test_what_does_not_fit() -> None:
    with pytest.raises(UnsupportedLayer, match="its vision tower is a CNN"):
        attach(im.make_dual(), UPT(2))
    with pytest.raises(ConfigError, match="width=0 must be at least 1"):
        UPT(2, 0)
    delta = attach(im.make_clip(), UPT(2, 8)).delta()
    for pattern, why in (
        ("!*attention_in.weight", r"prompt.mixer.attention_in.weight: expected \(24, 8\).*found none"),
        ("!prompt.mixed*", "a part of the delta is missing"),
        ("prompt.mixed*", "a part of the delta is missing"),
    ):
        part = {n: c for n, c in delta.changes.items() if _chosen(n, pattern)}
        model = im.make_clip()
        with pytest.raises(ShapeMismatch, match=why):
            attach(model, Delta(part, delta.base, delta.provenance))
        assert not model.vision_model._forward_hooks


def _chosen(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return not fnmatchcase(name, pattern[1:]) if pattern.startswith("!") else fnmatchcase(name, pattern)
