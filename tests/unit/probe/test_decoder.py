"""Layouts: value vectors are what a neuron adds to the stream, and the readout is what the network does with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as t
from torch import nn

from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.probe.ablation import ablation
from dtheta.probe.decoder import open_decoder
from dtheta.probe.norms import final_norm
from dtheta.probe.scan import scan
from dtheta.probe.traces import trace_report
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import DECODERS, NORMED, D, L, N, V, gemma, gpt2, llama, olmo2

_LAST_NORM = (
    "model.norm",
    "transformer.ln_f",
    "gpt_neox.final_layer_norm",
    "model.decoder.final_layer_norm",
    "biogpt.layer_norm",
)


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


@pytest.mark.parametrize("kind", [*DECODERS, *NORMED])
def test_a_value_vector_is_read_as_the_network_reads_it(kind: str, tmp_path: Path) -> None:
    """What the last MLP adds to the stream by v alone is given to final norm and head.

    Before, the norm behind the MLP (Gemma 3, OLMo 2, GLM 4) was left out, 1 was added to the gains of what is called
    gemma alone, and a final norm called layer_norm was not seen.
    """
    model = {**DECODERS, **NORMED}[kind]().double()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        want = (_said(model, kind, 1.0) - _said(model, kind, -1.0)) / 2  # a bias adds the same to both
    for decoder in (open_decoder(model), open_decoder(tmp_path)):
        have = (decoder.written(L - 1, decoder.values(L - 1)) @ decoder.readout().T).double()
        assert torch.allclose(_unit(have), _unit(want), atol=1e-5)


def _said(model: nn.Module, kind: str, sign: float) -> torch.Tensor:
    """Return the logits of a stream that holds what the last MLP adds where it writes one value vector, (N, V)."""
    values_ND = 1e3 * sign * open_decoder(model).values(L - 1).double()
    values = values_ND if kind == "opt" else values_ND[:, None]  # OPT runs all tokens of a batch as one list
    last = next(m for name, m in model.named_modules() if name in _LAST_NORM)
    streams: list[torch.Tensor] = []

    def run(written: torch.Tensor, replace: torch.Tensor | None = None) -> torch.Tensor:
        def entering(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            streams.append(inputs[0])
            return None if replace is None else (replace,)

        hooks = [
            down(model, L - 1).register_forward_hook(lambda _, __, out: written.expand_as(out)),
            last.register_forward_pre_hook(entering),
        ]
        try:
            return model(input_ids=torch.full((N, 1), 3), use_cache=False).logits[:, -1]
        finally:
            for hook in hooks:
                hook.remove()

    run(0.0 * values)
    run(values)
    return run(values, 1e3 * (streams[1] - streams[0]))


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=1, keepdim=True)


def test_scan_and_trace_take_the_norm_behind_the_mlp_in() -> None:
    model = olmo2()
    gain = model.model.layers[0].post_feedforward_layernorm.weight
    z = (open_decoder(model).values(0) * gain) @ open_decoder(model).readout().T
    found = scan(model, top=4)
    best = z.argsort(dim=1, descending=True)[:, :4].tolist()
    assert found.layers[0].tokens_SNK[0].tolist() == best
    nothing = 0.0 * ablation(model, [ValueVector(0, 5)])
    assert list(trace_report(model, nothing, [ValueVector(0, 5)], top=4).changes[0].before) == best[5]
    raw = open_decoder(model).values(0) @ model.get_output_embeddings().weight.T
    assert scan(model, top=1, norm="raw").layers[0].tokens_SNK[0, :, 0].tolist() == raw.argmax(dim=1).tolist()


def test_the_norm_of_another_tower_is_not_taken() -> None:
    shapes = {"model.visual.merger.norm.weight": (8,), "model.language_model.norm.weight": (8,)}
    assert final_norm(shapes, "model.language_model.layers", 8, "").gain == "model.language_model.norm.weight"


def test_a_configuration_that_does_not_say_that_it_is_tied(tmp_path: Path) -> None:
    """As those of GPT-2 and Gemma on the hub; what Llama's leaves out is that it is not."""
    for make in (gpt2, gemma):
        make().save_pretrained(tmp_path)
        _leave_out(tmp_path / "config.json", "tie_word_embeddings")
        assert open_decoder(tmp_path).tied
    llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    _leave_out(tmp_path / "config.json", "tie_word_embeddings")
    with pytest.raises(UnsupportedLayer, match="no unembedding"):
        open_decoder(tmp_path)


def test_a_folder_without_a_configuration_says_what_is_missing(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UnsupportedLayer, match=r"wte\.weight and no lm_head\.weight, and no config\.json"):
        open_decoder(tmp_path)


def _leave_out(path: Path, key: str) -> None:
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))


def test_a_square_linear_is_read_by_columns() -> None:
    config = t.GPTBigCodeConfig(vocab_size=V, n_embd=D, n_layer=1, n_head=2, n_inner=D, bos_token_id=0, eos_token_id=0)
    model = t.GPTBigCodeForCausalLM(config)
    assert torch.equal(open_decoder(model).values(0), down(model, 0).weight.T)


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
