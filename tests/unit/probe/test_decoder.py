"""Layouts: value vectors are what a neuron adds to the stream, and the readout is what the network does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as t
from torch import nn

from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.probe.decoder import open_decoder
from tests.unit.probe.decoders import DECODERS, D, L, N, V, gpt2, llama

_LAST_NORM = ("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm", "model.decoder.final_layer_norm")


def down(model: nn.Module, layer: int) -> nn.Module:
    ends = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", ".fc2")
    return next(m for name, m in model.named_modules() if f".{layer}." in name and name.endswith(ends))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_value_vector_is_what_one_neuron_adds(kind: str) -> None:
    model = DECODERS[kind]()
    decoder = open_decoder(model)
    assert decoder.layers == tuple(range(L))
    layer = down(model, 1)
    with torch.no_grad():
        added = layer(torch.eye(N)) - layer(torch.zeros(N, N))
    assert torch.allclose(decoder.values(1), added, atol=1e-6)


@pytest.mark.parametrize("kind", DECODERS)
def test_the_folded_readout_is_norm_and_head_of_the_network(kind: str) -> None:
    """On a stream x it computes E norm(x), which is E diag(g) x up to a factor (1 / rms) and the norm's bias."""
    model = DECODERS[kind]()
    norm = next(m for name, m in model.named_modules() if name in _LAST_NORM)
    x = torch.randn(5, D)
    with torch.no_grad():
        bias = getattr(norm, "bias", None)
        z = norm(x) - (0 if bias is None else bias)
        want = model.get_output_embeddings().weight @ z.T  # (V, 5)
    have = open_decoder(model).readout() @ x.T
    for w, h in zip(want.T, have.T, strict=True):
        assert torch.allclose(w / w.norm(), h / h.norm(), atol=1e-3)
    assert torch.equal(open_decoder(model).readout("raw"), model.get_output_embeddings().weight)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_checkpoint_is_read_as_the_model_is(kind: str, tmp_path: Path) -> None:
    model = DECODERS[kind]()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    a, b = open_decoder(model), open_decoder(tmp_path)
    assert (a.layers, a.tied, a.centered, a.offset) == (b.layers, b.tied, b.centered, b.offset)
    assert torch.equal(a.readout(), b.readout())
    assert all(torch.equal(a.values(l), b.values(l)) for l in a.layers)


def test_a_square_conv1d_is_read_by_rows() -> None:
    model = gpt2(inner=D)
    with torch.no_grad():
        added = down(model, 0)(torch.eye(D)) - down(model, 0)(torch.zeros(D, D))
    assert torch.allclose(open_decoder(model).values(0), added, atol=1e-6)


def test_tied_and_untied() -> None:
    assert open_decoder(llama(tie_word_embeddings=True)).tied
    assert not open_decoder(llama(tie_word_embeddings=False)).tied


def test_nothing_is_written_to() -> None:
    model = llama()
    before = {name: p.clone() for name, p in model.named_parameters()}
    decoder = open_decoder(model)
    for layer in decoder.layers:
        decoder.values(layer)
    decoder.readout()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    moe = t.MixtralForCausalLM(
        t.MixtralConfig(
            vocab_size=V, hidden_size=D, intermediate_size=N, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=2,
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedLayer, match="mixture of experts"):
        open_decoder(moe)
    with pytest.raises(UnsupportedLayer, match=r"no unembedding.*ForCausalLM"):
        open_decoder(llama(tie_word_embeddings=False).model)
    bert = t.BertForMaskedLM(t.BertConfig(vocab_size=V, hidden_size=D, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(UnsupportedLayer, match="no MLP down-projections"):
        open_decoder(bert)
    with pytest.raises(ConfigError, match="layer 7: the model has MLP layers 0 to 2"):
        open_decoder(llama()).values(7)
    with pytest.raises(ConfigError, match="a int was given; expected a model, or the folder"):
        open_decoder(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="norm='half'"):
        open_decoder(llama()).readout("half")  # type: ignore[arg-type]
    broken = llama()
    with torch.no_grad():
        down(broken, 1).weight[0, 0] = torch.nan
    with pytest.raises(NonFinite, match=r"layers\.1\.mlp\.down_proj\.weight holds NaN"):
        open_decoder(broken).values(1)
