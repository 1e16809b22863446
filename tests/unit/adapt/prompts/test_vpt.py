"""VPT: equal to a forward written by hand, shallow and deep."""

from __future__ import annotations

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.vpt import VPT
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer
from tests.unit.adapt.prompts import image_models as im


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_equal_to_a_forward_written_by_hand(deep: bool, attention: str) -> None:
    model, images = im.make_clip(attention), im.pictures()
    before = model.get_image_features(images).pooler_output
    adapter = im.shake(attach(model, VPT(4, deep)))
    columns = {int(name.rpartition(".")[2]): im.vectors(adapter, name) for name in adapter.grafts}
    assert sorted(columns) == ([0, 1, 2] if deep else [0])
    found = model.get_image_features(images)
    assert torch.allclose(found.pooler_output, im.image_features(model, images, columns), atol=1e-6)
    assert not torch.allclose(found.pooler_output, before, atol=1e-2)
    assert torch.equal(found.pooler_output, model(**im.texts(), pixel_values=images).vision_model_output.pooler_output)
    adapter.detach()
    assert torch.equal(model.get_image_features(images).pooler_output, before)


def test_a_prompt_without_vectors_at_some_layers() -> None:
    """As a delta made by hand: the states of those columns go on to the next layer."""
    model, images = im.make_clip(), im.pictures()
    adapter = im.shake(attach(model, VPT(2)))
    delta = adapter.delta()
    adapter.detach()
    part = delta.restrict("prompt.visual.[02]")
    adapter = attach(model, part)
    columns = {layer: part[f"prompt.visual.{layer}"].dense() for layer in (0, 2)}
    found = model.get_image_features(images).pooler_output
    assert torch.allclose(found, im.image_features(model, images, columns), atol=1e-6)


def test_two_prompts_stand_one_after_another() -> None:
    model, images = im.make_clip(), im.pictures()
    first, second = im.shake(attach(model, VPT(2))), im.shake(attach(model, VPT(3, deep=False)), 2)
    both = model.get_image_features(images).pooler_output
    columns = {0: torch.cat([im.vectors(first, "prompt.visual.0"), im.vectors(second, "prompt.visual.0")])}
    x = model.vision_model
    states = im.embedded(x, images)
    states = torch.cat([states[:, :1], columns[0].expand(4, -1, -1), states[:, 1:]], 1)
    for index, layer in enumerate(x.encoder.layers):
        if index:
            own = im.vectors(first, f"prompt.visual.{index}").expand(4, -1, -1)
            states = torch.cat([states[:, :1], own, states[:, 3:]], 1)
        states = im.attended(layer, states, causal=False)
    expected = model.visual_projection(x.post_layernorm(states[:, 0]))
    assert torch.allclose(both, expected, atol=1e-6)


def test_states_keep_the_columns_of_the_image() -> None:
    model = im.make_clip()
    adapter = attach(model, VPT(3))
    output = model.vision_model(im.pictures(), output_hidden_states=True)
    assert output.last_hidden_state.shape == (4, 5, 24)
    assert {tuple(state.shape) for state in output.hidden_states[1:]} == {(4, 5, 24)}
    adapter.detach()


def test_states_in_a_tuple_keep_the_columns_of_the_image() -> None:
    model, images = im.make_clip(), im.pictures()
    im.shake(attach(model, VPT(4)))
    named = model.vision_model(images)
    as_tuple = model.vision_model(images, return_dict=False)
    assert torch.equal(as_tuple[0], named.last_hidden_state) and torch.equal(as_tuple[1], named.pooler_output)


def test_start_is_uniform_in_its_bounds() -> None:
    adapter = attach(im.make_clip(), VPT(50))
    bound = (6 / (3 * 8**2 + 24)) ** 0.5
    for name in adapter.grafts:
        drawn = im.vectors(adapter, name)
        assert 0.9 * bound < float(drawn.abs().max()) <= bound
        assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not torch.equal(im.vectors(adapter, "prompt.visual.0"), im.vectors(adapter, "prompt.visual.1"))


def test_parameters_as_published() -> None:
    import transformers as t

    with torch.device("meta"):
        vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
        model = t.CLIPModel(t.CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config=vision))
    model.text_model.embeddings.token_embedding.to_empty(device="cpu")
    grafts = VPT(16).grafts(model, 0)
    assert sum(p.numel() for term in grafts.values() for p in term.parameters()) == 147_456


def test_a_cnn_is_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="no visual prompt can enter DualEncoder: its vision tower is a CNN"):
        attach(im.make_dual(), VPT(2))
    with pytest.raises(ConfigError, match="length=0 must be at least 1"):
        VPT(0)


def test_vectors_that_do_not_fit() -> None:
    model = im.make_clip()
    delta = attach(im.make_clip(), VPT(2)).delta()
    for shapes, why in (
        ({0: (2, 16)}, "has 16 features, and the image embeddings of CLIPModel have 24"),
        ({0: (2, 24), 7: (2, 24)}, "the vision tower has 3 layers"),
        ({1: (2, 24)}, "must begin at layer 0"),
        ({0: (2, 24), 1: (3, 24)}, "as many at every later layer; found 2 at 0, 3 at 1"),
    ):
        changes = {f"prompt.visual.{layer}": New(torch.zeros(shape)) for layer, shape in shapes.items()}
        with pytest.raises(ShapeMismatch, match=why):
            attach(model, Delta(changes, delta.base, delta.provenance))
    assert not model.vision_model._forward_hooks and "forward" not in model.text_model.__dict__


def test_the_delta_stands_beside_the_patches() -> None:
    assert list(attach(im.make_clip(), VPT(2)).delta().base.digests) == [
        "vision_model.embeddings.patch_embedding.weight"
    ]


@pytest.mark.parametrize("deep", [True, False])
def test_images_of_one_batch_do_not_matter_to_one_another(deep: bool) -> None:
    model, images = im.make_clip(), im.pictures()
    im.shake(attach(model, VPT(2, deep)))
    alone = torch.cat([model.get_image_features(image[None]).pooler_output for image in images])
    assert torch.allclose(alone, model.get_image_features(images).pooler_output, atol=1e-6)
