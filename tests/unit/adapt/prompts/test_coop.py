"""CoOp: equal to a forward written by hand, at every position of the name, on every kind of text tower."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.coop import CoOp
from dtheta.adapt.prompts.image_names import Position
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer
from dtheta.models.image_text import ImageTextClassifier
from dtheta.models.multitask_images import MultiTaskImages
from tests.unit.adapt.prompts import image_models as im

POSITIONS: tuple[Position, ...] = ("end", "front", "middle")


def features(model: Any, **given: Tensor) -> Tensor:
    """Return CLIP's text features."""
    return model.get_text_features(**given).pooler_output


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("eos", [im.EOS, 2])
def test_equal_to_a_forward_written_by_hand(position: Position, attention: str, eos: int) -> None:
    model = im.make_clip(attention, eos)
    before = features(model, **im.texts())
    adapter = im.shake(attach(model, CoOp(5, position)))
    u = im.vectors(adapter, adapter.grafts[0])
    expected = im.text_features(model, im.with_context(model, [u] * 3, position))
    assert torch.allclose(features(model, **im.texts()), expected, atol=2e-6)
    assert torch.allclose(features(model, input_ids=im.texts()["input_ids"]), expected, atol=2e-6)
    assert torch.allclose(features(model, **im.texts(columns=20)), expected, atol=2e-6)  # all 20 positions are padding
    adapter.detach()
    assert torch.equal(features(model, **im.texts()), before)


@pytest.mark.parametrize("position", POSITIONS)
def test_every_class_has_a_context_of_its_own(position: Position) -> None:
    model = im.make_clip()
    classifier = im.make_classifier(model)
    adapter = im.shake(attach(classifier, CoOp(3, position, per_class=True)))
    name = adapter.grafts[0]
    assert name.endswith(".classes.3") and im.vectors(adapter, name).shape == (9, 16)
    rows = im.with_context(model, list(im.vectors(adapter, name).reshape(3, 3, 16)), position)
    expected = im.cosines(model.get_image_features(im.pictures()).pooler_output, im.text_features(model, rows), model)
    assert torch.allclose(classifier(im.pictures()).logits, expected, atol=2e-5)
    with pytest.raises(ConfigError, match="each of 3 classes, and the text tower got 2 texts"):
        features(model, **im.texts(im.NAMES[:2]))


def test_contexts_of_classes_with_several_templates() -> None:
    model = im.make_clip()
    adapter = im.shake(attach(im.make_classifier(model), CoOp(2, "end", per_class=True)))
    once = features(model, **im.texts())
    twice = features(model, **im.texts([name for name in im.NAMES for _ in range(2)]))
    assert torch.allclose(twice, once.repeat_interleave(2, 0), atol=1e-6)
    assert adapter.attached


def test_states_keep_the_columns_of_the_text() -> None:
    model, given = im.make_clip(), im.texts()
    adapter = attach(model, CoOp(5))
    output = model.text_model(**given, output_hidden_states=True)
    assert output.last_hidden_state.shape == (3, 5, 16)
    assert {tuple(state.shape) for state in output.hidden_states} == {(3, 5, 16)}
    adapter.detach()


def test_start() -> None:
    drawn = im.vectors(attach(im.make_clip(), CoOp(16)), "prompt.text")
    assert drawn.shape == (16, 16) and 0.015 < float(drawn.std()) < 0.025
    model = im.make_clip()
    table = model.text_model.embeddings.token_embedding.weight
    of_text = attach(model, CoOp(3, ids=(7, 9))).term("prompt.text").matrix()
    assert torch.equal(of_text, table[[7, 9, 7]])
    assert torch.equal(drawn, im.vectors(attach(im.make_clip(), CoOp(16)), "prompt.text"))
    assert not torch.equal(drawn, im.vectors(attach(im.make_clip(), CoOp(16), seed=1), "prompt.text"))


def test_parameters_as_published() -> None:
    import transformers as t

    with torch.device("meta"):
        model = t.CLIPModel(t.CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config={"num_hidden_layers": 1}))
    model.text_model.embeddings.token_embedding.to_empty(device="cpu")
    grafts = CoOp(16).grafts(model, 0)
    assert sum(p.numel() for term in grafts.values() for p in term.parameters()) == 8192


@pytest.mark.parametrize("position", POSITIONS)
def test_the_text_tower_of_a_dual_encoder(position: Position) -> None:
    dual, given = im.make_dual(), im.texts()
    before = dual.get_text_features(**given)
    adapter = im.shake(attach(dual, CoOp(5, position)))
    u = im.vectors(adapter, adapter.grafts[0])
    found, expected = dual.get_text_features(**given), []
    adapter.detach()
    table = dual.text.embeddings.word_embeddings.weight
    cut = {"end": 5, "front": 0, "middle": 2}[position]
    for name in im.NAMES:
        x = torch.cat([table[[im.BOS]], u[:cut], table[name], u[cut:], table[[im.EOS]]])[None]
        own = [0, *range(1 + cut, 1 + cut + len(name)), x.shape[1] - 1]
        states = dual.text(inputs_embeds=x).last_hidden_state[0, own]
        expected.append(dual.text_projection(torch.nn.functional.normalize(states.mean(0), dim=0)))
    assert torch.allclose(found, torch.stack(expected), atol=2e-5)
    assert torch.equal(dual.get_text_features(**given), before)
    assert adapter.delta().base.root is not None


def test_the_delta_stands_beside_the_embeddings() -> None:
    delta = attach(im.make_clip(), CoOp(2)).delta()
    assert {name: type(change) for name, change in delta.changes.items()} == {"prompt.text": New}
    assert list(delta.base.digests) == ["text_model.embeddings.token_embedding.weight"]
    assert list(attach(im.make_clip(), CoOp(2, "front")).delta()) == ["prompt.text.front"]


def test_bad_texts() -> None:
    model = im.make_clip()
    adapter = attach(model, CoOp(16))
    with pytest.raises(
        ConfigError, match="5 tokens and 16 vectors of context take 21 positions, and CLIPTextModel has 20"
    ):
        features(model, **im.texts())
    adapter.detach()
    adapter = attach(model, CoOp(4))
    with pytest.raises(ConfigError, match=r"text 1 has no end \(id 49\)"):
        features(model, input_ids=torch.tensor([[48, 3, 49], [48, 3, 4]]))
    left = im.texts()
    with pytest.raises(ConfigError, match="padded on the right"):
        features(model, input_ids=left["input_ids"], attention_mask=left["attention_mask"].flip(1))
    with pytest.raises(ConfigError, match="position_ids cannot be given"):
        features(model, **left, position_ids=torch.arange(5)[None])
    adapter.detach()
    dual = im.make_dual()
    attach(dual, CoOp(16))
    with pytest.raises(ConfigError, match="a text of 5 tokens and 16 vectors of context take 21 positions"):
        dual.get_text_features(**im.texts())


def test_bad_models_and_fields() -> None:
    clip = im.make_clip()
    with pytest.raises(ShapeMismatch, match="18 context vectors leave no position for a name: CLIPTextModel has 20"):
        attach(clip, CoOp(18))
    with pytest.raises(UnsupportedLayer, match="is no ImageTextClassifier, whose classes are needed"):
        attach(clip, CoOp(2, per_class=True))
    with pytest.raises(UnsupportedLayer, match="holds no image-text model that is known here: CLIPModel"):
        attach(torch.nn.Linear(2, 2), CoOp(2))
    with pytest.raises(UnsupportedLayer, match="2 image-text models"):
        attach(torch.nn.ModuleList([clip, im.make_clip()]), CoOp(2))
    with pytest.raises(ConfigError, match="length=0 must be at least 1"):
        CoOp(0)
    with pytest.raises(ConfigError, match="ids must be token ids below 50"):
        attach(clip, CoOp(2, ids=(50,)))
    with pytest.raises(UnsupportedLayer, match="reads more than text"):
        attach(clip, PromptTuning(2))
    del clip.text_model.embeddings.token_embedding
    with pytest.raises(UnsupportedLayer, match=r"CLIPModel has no text_model\.embeddings\.token_embedding"):
        attach(clip, CoOp(2))


def test_wrong_widths() -> None:
    clip = im.make_clip()
    delta = attach(im.make_clip(), CoOp(2)).delta()
    for name, shape, why in (
        ("prompt.text", (2, 5), "has 5 features, and the text embeddings of CLIPModel have 16"),
        ("prompt.text", (5,), "must be a matrix"),
        ("prompt.text.classes.3", (4, 16), "no multiple of 3 classes"),
    ):
        made = Delta({name: New(torch.zeros(shape))}, delta.base, delta.provenance)
        with pytest.raises(ShapeMismatch, match=why):
            attach(clip, made)
    assert "forward" not in clip.text_model.__dict__


def test_prompts_of_the_text_tower_alone_are_told_apart() -> None:
    dual = im.make_dual()
    alone = attach(dual.text, PromptTuning(2))
    with pytest.raises(UnsupportedLayer, match="a prompt is on the text tower of DualEncoder alone"):
        attach(dual, CoOp(2))
    alone.detach()
    whole = attach(dual, CoOp(2))
    with pytest.raises(UnsupportedLayer, match="a prompt of an image-text model is on this BertModel"):
        attach(dual.text, PromptTuning(2))
    whole.detach()


@pytest.mark.parametrize("count", [2, 6])
def test_contexts_of_other_classes_are_refused(count: int) -> None:
    made = attach(im.make_classifier(im.make_clip()), CoOp(4, per_class=True)).delta()
    given = im.texts((im.NAMES * 2)[:count])
    names = [str(i) for i in range(count)]
    other = ImageTextClassifier(im.make_clip(), names, ("{}",), given["input_ids"], given["attention_mask"])
    with pytest.raises(ShapeMismatch, match=f"each of 3 classes, and there are {count}"):
        attach(other, made)
    several = MultiTaskImages({"one": other})
    with pytest.raises(UnsupportedLayer, match="several tasks share"):
        attach(several, made)
