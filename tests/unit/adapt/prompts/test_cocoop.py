"""CoCoOp: equal to one forward an image with a context that was moved by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.cocoop import CoCoOp
from dtheta.adapt.prompts.coop import CoOp
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer
from dtheta.models.multitask_images import MultiTaskImages
from tests.unit.adapt.prompts import image_models as im


def test_equal_to_a_forward_written_by_hand() -> None:
    model = im.make_clip()
    classifier, images = im.make_classifier(model), im.pictures()
    before = classifier(images).logits
    adapter = im.shake(attach(classifier, CoCoOp(3)))
    values = {name: im.vectors(adapter, name) for name in adapter.grafts}
    features, rows = model.get_image_features(images).pooler_output, []
    for feature in features:
        hidden = F.relu(
            F.normalize(feature, dim=0) @ values["prompt.meta.down.weight"].T + values["prompt.meta.down.bias"]
        )
        u = values["prompt.text.end"] + hidden @ values["prompt.meta.up.weight"].T + values["prompt.meta.up.bias"]
        rows.append(im.cosines(feature[None], im.text_features(model, im.with_context(model, [u] * 3, "end")), model))
    labels = torch.tensor([0, 2, 1, 0])
    found = classifier(images, labels=labels)
    assert torch.allclose(found.logits, torch.cat(rows), atol=2e-5)
    assert found.loss is not None and torch.allclose(found.loss, F.cross_entropy(torch.cat(rows), labels), atol=1e-5)
    assert torch.equal(classifier(image_features=features).logits, found.logits)
    with adapter.disabled():
        assert torch.equal(classifier(images).logits, before)
    adapter.detach()
    assert torch.equal(classifier(images).logits, before) and "forward" not in classifier.__dict__


def test_everything_of_it_trains() -> None:
    for model in (im.make_clip(), im.make_dual()):
        classifier = im.make_classifier(model)
        adapter = im.shake(attach(classifier, CoCoOp(2)))
        classifier(im.pictures(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable().values())
        assert all(p.grad is None for p in model.parameters())
        adapter.detach()


def test_hidden_units_are_a_sixteenth_of_the_joint_features() -> None:
    adapter = attach(im.make_classifier(im.make_dual()), CoCoOp(2))
    shapes = {name: tuple(im.vectors(adapter, name).shape) for name in adapter.grafts}
    assert shapes == {
        "prompt.text.end": (2, 16), "prompt.meta.down.weight": (80, 1280), "prompt.meta.down.bias": (80,),
        "prompt.meta.up.weight": (16, 80), "prompt.meta.up.bias": (16,),
    }  # fmt: skip


def test_it_needs_an_image() -> None:
    model = im.make_clip()
    with pytest.raises(UnsupportedLayer, match="is no ImageTextClassifier"):
        attach(model, CoCoOp(2))
    classifier = im.make_classifier(model)
    adapter = attach(classifier, CoCoOp(2))
    with pytest.raises(ConfigError, match="no text features without one"):
        classifier.text_features()
    with pytest.raises(ConfigError, match="no text features without one"), classifier.frozen_text():
        pass
    with pytest.raises(ConfigError, match="no constant vectors"):
        adapter.folded()
    with pytest.raises(ConfigError, match="either pixel_values or image_features"):
        classifier()
    delta = adapter.delta()
    adapter.detach()
    with pytest.raises(UnsupportedLayer, match="is no ImageTextClassifier"):
        attach(model, delta, strict=False)
    part = {name: change for name, change in delta.changes.items() if name != "prompt.meta.up.weight"}
    with pytest.raises(ShapeMismatch, match=r"up\.weight.*a part of the delta is missing"):
        attach(classifier, Delta(part, delta.base, delta.provenance))
    wide = {**delta.changes, "prompt.meta.down.weight": New(torch.zeros(4, 13))}
    with pytest.raises(ShapeMismatch, match=r"down.weight is \(4, 64\), found \(4, 13\)"):
        attach(classifier, Delta(wide, delta.base, delta.provenance))


def test_beside_a_plain_context() -> None:
    classifier, images = im.make_classifier(im.make_clip()), im.pictures()
    plain = im.shake(attach(classifier, CoOp(2)))
    alone = classifier(images).logits
    moved = attach(classifier, CoCoOp(2))
    assert not torch.allclose(classifier(images).logits, alone, atol=1e-3)
    moved.detach()
    assert torch.equal(classifier(images).logits, alone)
    plain.detach()


def test_on_two_classifiers_of_one_model() -> None:
    model, images = im.make_clip(), im.pictures()
    one, other = im.make_classifier(model), im.make_classifier(model)
    plain = other(images).logits
    first = im.shake(attach(one, CoCoOp(2)))
    alone = one(images).logits
    second = attach(other, CoCoOp(2))
    assert torch.allclose(one(images).logits, other(images).logits)  # prompts are the model's, whoever asks
    first.detach()
    second.detach()
    assert torch.equal(other(images).logits, plain) and not torch.allclose(alone, plain)
    assert "forward" not in one.__dict__ and "forward" not in other.__dict__


def test_several_tasks_are_refused() -> None:
    net = MultiTaskImages({"one": im.make_classifier(im.make_clip())})
    with pytest.raises(UnsupportedLayer, match="attach CoCoOp to one task's classifier"):
        attach(net, CoCoOp(2))
