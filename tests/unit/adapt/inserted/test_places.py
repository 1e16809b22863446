"""Places: behind attention and MLP of every block, in each family; elsewhere by selection."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.houlsby import Houlsby
from dtheta.adapt.inserted.places import all_places, places
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer
from tests.unit.adapt.prompts.conftest import make


def vit() -> nn.Module:
    import transformers as t

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return t.ViTModel(t.ViTConfig(**small, image_size=8, patch_size=4))


def clip() -> nn.Module:
    import transformers as t

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return t.CLIPModel(
        t.CLIPConfig(
            text_config={**small, "vocab_size": 64, "max_position_embeddings": 16},
            vision_config={**small, "image_size": 8, "patch_size": 4},
            projection_dim=8,
        )
    )


def distilbert() -> nn.Module:
    import transformers as t

    return t.DistilBertModel(t.DistilBertConfig(vocab_size=64, dim=16, n_layers=2, n_heads=2, hidden_dim=32))


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)


def decoder() -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 2)


BUILD = {"vit": vit, "clip": clip, "distilbert": distilbert, "encoder": encoder, "decoder": decoder}
# of the first block: behind attention, behind the MLP
FIRST = {
    "bert": ("encoder.layer.0.attention.output.dropout", "encoder.layer.0.output.dropout"),
    "roberta": ("encoder.layer.0.attention.output.dropout", "encoder.layer.0.output.dropout"),
    "gpt2": ("transformer.h.0.attn.resid_dropout", "transformer.h.0.mlp.dropout"),
    "llama": ("model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj"),
    "opt": ("model.decoder.layers.0.self_attn.out_proj", "model.decoder.layers.0.fc2"),
    "t5": ("encoder.block.0.layer.0.SelfAttention.o", "encoder.block.0.layer.1.DenseReluDense.wo"),
    "vit": ("layers.0.attention.o_proj", "layers.0.mlp.fc2"),
    "clip": ("text_model.encoder.layers.0.self_attn.out_proj", "text_model.encoder.layers.0.mlp.fc2"),
    "distilbert": ("transformer.layer.0.attention.out_lin", "transformer.layer.0.ffn.dropout"),
    "encoder": ("layers.0.dropout1", "layers.0.dropout2"),
    "decoder": ("layers.0.dropout1", "layers.0.dropout3"),
}


def build(name: str) -> nn.Module:
    return BUILD[name]() if name in BUILD else make(name)


@pytest.mark.parametrize("name", FIRST)
def test_every_family_has_places_behind_attention_and_mlp_of_each_block(name: str) -> None:
    model = build(name)
    attention, mlp = (places(model, part) for part in ("attention", "mlp"))
    assert FIRST[name][0] in [place.path for place in attention]
    assert FIRST[name][1] in [place.path for place in mlp]
    # two blocks a tower; decoders with attention to an encoder have it twice
    stacks = {"clip": (4, 4), "t5": (6, 4), "decoder": (4, 2)}.get(name, (2, 2))
    assert (len(attention), len(mlp)) == stacks
    both = [place.path for place in places(model)]
    assert sorted(both) == sorted(place.path for place in [*attention, *mlp])
    assert {place.width for place in places(model)} == {16}
    assert set(both) <= set(all_places(model))


def test_a_selection_takes_the_place_of_the_usual_ones(tiny_bert: nn.Module) -> None:
    found = places(tiny_bert, select="*.query|*.output.dense#1")
    assert [place.path for place in found] == [
        "encoder.layer.0.attention.self.query",
        "encoder.layer.1.attention.self.query",
        "encoder.layer.1.attention.output.dropout",
        "encoder.layer.1.output.dropout",
    ]
    assert [place.path for place in places(tiny_bert, select="*.intermediate.dense#0")] == [
        "encoder.layer.0.intermediate.dense"
    ]


def test_what_is_no_output_of_a_linear_layer_is_refused(tiny_bert: nn.Module, tiny_mha: nn.Module) -> None:
    with pytest.raises(UnsupportedLayer, match=r"embeddings\.word_embeddings\.weight: a network stands behind"):
        places(tiny_bert, select="*.word_embeddings")
    with pytest.raises(UnsupportedLayer, match=r"attention.out_proj.weight"):  # handed to a function
        places(tiny_mha, select="*.out_proj")
    with pytest.raises(UnsupportedLayer, match=r"in_proj_weight\[q\]"):
        places(tiny_mha, select="*.in_proj_weight:q")
    with pytest.raises(UnknownParameter, match="did you mean"):
        places(tiny_bert, select="encoder.layer.0.output.dens")


def test_a_model_without_known_blocks_is_told_to_select(tiny_mlp: nn.Module) -> None:
    with pytest.raises(UnsupportedLayer, match=r"last one of attention .*select="):
        attach(tiny_mlp, Houlsby(size=2))
    adapter = attach(tiny_mlp, Houlsby(size=2), "0")
    assert set(adapter.grafts) == {f"0.houlsby.gelu.{p}" for p in ("down", "down_bias", "up", "up_bias")}
    adapter.detach()


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ConfigError, match="placement"):
        Houlsby(placement="neither")  # type: ignore[arg-type]


@pytest.mark.parametrize("masked", [False, True])
def test_torchs_fast_path_is_not_taken_past_a_network(masked: bool) -> None:
    model, x = encoder().eval().requires_grad_(False), torch.randn(3, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5]) if masked else None
    with torch.no_grad():
        before = model(x, src_key_padding_mask=mask)
        adapter = attach(model, Houlsby(size=3))
        torch.testing.assert_close(model(x, src_key_padding_mask=mask), before, rtol=0, atol=2e-6)
        for p in adapter.trainable().values():
            p.add_(torch.randn_like(p), alpha=0.5)
        moved = model(x, src_key_padding_mask=mask)
    with torch.enable_grad():
        slow = model(x.clone().requires_grad_(), src_key_padding_mask=mask).detach()
    assert not torch.allclose(moved, before, atol=1e-3)
    real = slice(None) if mask is None else ~mask
    torch.testing.assert_close(moved[real], slow[real], rtol=0, atol=1e-5)
    adapter.detach()
