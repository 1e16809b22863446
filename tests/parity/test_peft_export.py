"""to_peft against peft itself: what we write, peft loads on the untouched base and computes the same."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from tests.parity.adapted import moved, outputs, with_delta
from tests.shaken import shaken

peft = pytest.importorskip("peft")

TOKENS = torch.randint(0, 60, (3, 9), generator=generator(0, "tokens"))
METHODS = [LoRA(rank=3, alpha=6.0), LoRA(rank=4, alpha=8.0, rslora=True), PiSSA(rank=3), PiSSA(rank=3, alpha=1.5),
           SORSA(rank=3, alpha=6.0), CLIPSVD(), CLIPSVD(ratio=0.5)]  # fmt: skip


def in_peft(model: nn.Module, folder, inputs):
    """The output of an untouched copy of the base with the folder on it, and whether peft complained."""
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(folder))
    keys = [str(w.message) for w in complaints if "missing" in str(w.message) or "unexpected" in str(w.message).lower()]
    assert not keys
    return outputs(loaded, inputs)


def assert_same_in_peft(model: nn.Module, delta, inputs, folder, tolerance: float = 1e-5) -> None:
    base, ours = outputs(model, inputs), with_delta(model, delta, inputs)
    theirs = in_peft(model, folder, inputs)
    assert (ours - base).abs().max() > 1e-3
    torch.testing.assert_close(theirs, ours, rtol=0, atol=tolerance * max(1.0, float(ours.abs().max())))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_on_bert(method, tiny_bert, tmp_path):
    delta = moved(tiny_bert, method)
    assert_same_in_peft(tiny_bert, delta, [TOKENS], to_peft(delta, tmp_path / "adapter"))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_on_transposed_fused_and_embedding_weights(method, tiny_gpt2, tmp_path):
    select = "*.c_attn:qv|*.c_proj#0|*.c_fc|transformer.wpe"
    delta = moved(tiny_gpt2, method, select)
    folder = to_peft(delta, tmp_path / "adapter")
    assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    assert_same_in_peft(tiny_gpt2, delta, [TOKENS], folder)


@pytest.mark.parametrize("method", [LoRA(rank=3), PiSSA(rank=3), CLIPSVD()], ids=repr)
def test_convolutions_also_grouped_and_strided(method, tiny_conv, tmp_path):
    images = torch.randn(2, 3, 8, 8, generator=generator(0, "images"))
    delta = moved(tiny_conv, method, "@conv|@linear")
    assert_same_in_peft(tiny_conv, delta, [images], to_peft(delta, tmp_path / "adapter"))


def test_one_dimensional_convolution(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, stride=2, padding=1), nn.Conv1d(6, 5, 1))
    x = torch.randn(2, 4, 10)
    delta = moved(model, PiSSA(rank=2), "@conv")
    assert_same_in_peft(model, delta, [x], to_peft(delta, tmp_path / "adapter"))


@pytest.mark.parametrize("select", ["attention", "*.in_proj_weight:v", "*.in_proj_weight:qv"])
def test_input_projections_of_attention(select, tiny_mha, tmp_path):
    x = torch.randn(2, 5, 16, generator=generator(0, "x"))
    delta = moved(tiny_mha, PiSSA(rank=3), select)
    folder = to_peft(delta, tmp_path / "adapter")
    assert_same_in_peft(tiny_mha, delta, [x], folder)
    again = from_peft(folder, tiny_mha)
    torch.testing.assert_close(again["attention.in_proj_weight"].dense(), delta["attention.in_proj_weight"].dense())
    assert list(again) == list(delta)


def test_tied_embedding_goes_to_both_modules(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    delta = moved(model, PiSSA(rank=3), "model.embed_tokens|*.q_proj")
    folder = to_peft(delta, tmp_path / "adapter")
    assert_same_in_peft(model, delta, [TOKENS], folder)
    again = from_peft(folder, model)
    assert list(again) == list(delta)


def test_sums_and_multiples_are_exact(tiny_bert, tmp_path):
    first = moved(tiny_bert, PiSSA(rank=2), "*.query|*.value")
    second = moved(tiny_bert, LoRA(rank=3, alpha=6.0), "*.query|*.key", size=0.2)
    both = 0.5 * first + (-1.25) * second
    folder = to_peft(both, tmp_path / "adapter", model=tiny_bert)
    config = json.loads((folder / "adapter_config.json").read_text())
    ranks = {path.replace("\\", "").removeprefix("^"): r for path, r in config["rank_pattern"].items()}
    of = lambda leaf: ranks.get(f"encoder.layer.0.attention.self.{leaf}", config["r"])  # noqa: E731
    assert (of("query"), of("key"), of("value")) == (7, 3, 4)
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert_same_in_peft(tiny_bert, both, [TOKENS], folder)


def test_module_whose_path_ends_in_another_modules_path_is_left_alone(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
    delta = moved(model, LoRA(rank=2), "0")
    folder = to_peft(delta, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(folder))
    assert [n for n, _ in loaded.named_parameters() if "lora_A" in n] == ["base_model.model.0.lora_A.default.weight"]


@pytest.mark.parametrize("also", ["@bias", "*.query.bias", "embeddings.LayerNorm.bias"])
def test_biases_beside_the_factors(also, tiny_bert, tmp_path):
    adapter = attach(tiny_bert, PiSSA(rank=3), "*.query|*.value", also=also)
    shaken(adapter, 0.05)
    delta = adapter.delta()
    adapter.detach()
    folder = to_peft(delta, tmp_path / "adapter", model=tiny_bert)
    assert_same_in_peft(tiny_bert, delta, [TOKENS], folder)
    again = from_peft(folder, tiny_bert)
    assert set(again) == set(delta)
    for name in again:
        torch.testing.assert_close(again[name].dense().double(), delta[name].dense().double(), rtol=0, atol=1e-6)


def test_the_bias_of_attentions_output_which_peft_wraps_twice(tiny_mha, tmp_path):
    x = torch.randn(2, 5, 16, generator=generator(0, "x"))
    adapter = attach(tiny_mha, LoRA(rank=3), "attention", also="*.out_proj.bias")
    shaken(adapter, 0.1)
    delta = adapter.delta()
    adapter.detach()
    folder = to_peft(delta, tmp_path / "adapter", model=tiny_mha)
    assert_same_in_peft(tiny_mha, delta, [x], folder)
    assert set(from_peft(folder, tiny_mha)) == set(delta)


def test_biases_beside_a_head_stored_in_full(tiny_bert, tmp_path):
    adapter = attach(tiny_bert, LoRA(rank=3), "*.query", also="*.query.bias|pooler.*")
    shaken(adapter, 0.05)
    delta = adapter.delta()
    adapter.detach()
    with pytest.raises(ConfigError, match="stores base plus change of a bias, so this needs the base"):
        to_peft(delta.restrict("*.query.*"), tmp_path / "adapter")
    folder = to_peft(delta, tmp_path / "adapter", model=tiny_bert, modules_to_save=["pooler"])
    stored = load_file(folder / "adapter_model.safetensors")
    assert sum(name.endswith("pooler.dense.bias") for name in stored) == 1
    assert_same_in_peft(tiny_bert, delta, [TOKENS], folder)
    assert set(from_peft(folder, tiny_bert, modules_to_save=True)) == set(delta)


def test_head_stored_in_full(tiny_llama, tmp_path):
    adapter = attach(tiny_llama, PiSSA(rank=3), "*.q_proj|*.v_proj", also="lm_head.*")
    shaken(adapter, 0.05)
    delta = adapter.delta()
    adapter.detach()
    folder = to_peft(delta, tmp_path / "adapter", model=tiny_llama, modules_to_save=["lm_head"])
    assert_same_in_peft(tiny_llama, delta, [TOKENS], folder)
    again = from_peft(folder, tiny_llama, modules_to_save=True)
    assert again["lm_head.weight"].kind == "dense"
    restored = tiny_llama.lm_head.weight.double() + again["lm_head.weight"].dense()
    stored = load_file(folder / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    assert torch.equal(restored.float(), stored)


@pytest.mark.parametrize("method", [PiSSA(rank=16), SORSA(rank=16), LoRA(rank=16)], ids=repr)
def test_real_encoder(method, minilm_factory, tmp_path):
    model = minilm_factory()
    ids = torch.randint(5, 30000, (2, 24), generator=generator(0, "ids"))
    delta = moved(model, method, size=0.01)
    assert_same_in_peft(model, delta, [ids, torch.ones_like(ids)], to_peft(delta, tmp_path / "adapter", "minilm"))


def test_real_decoder(smollm2_factory, tmp_path):
    model = smollm2_factory(2)
    ids = torch.randint(5, 40000, (1, 16), generator=generator(0, "ids"))
    delta = moved(model, PiSSA(rank=8), size=0.01)
    assert_same_in_peft(model, delta, [ids], to_peft(delta, tmp_path / "adapter", "smollm2"))


def test_what_peft_saves_again_is_the_same_delta(tiny_bert, tmp_path):
    delta = moved(tiny_bert, SORSA(rank=3))
    ours = to_peft(delta, tmp_path / "ours")
    peft.PeftModel.from_pretrained(copy.deepcopy(tiny_bert), str(ours)).save_pretrained(str(tmp_path / "theirs"))
    again = from_peft(tmp_path / "theirs", tiny_bert)
    assert list(again) == list(delta)
    for name in delta:
        torch.testing.assert_close(again[name].dense(), delta[name].dense(), rtol=1e-5, atol=1e-6)


def test_header_holds_the_digests_of_the_base(tiny_bert, tmp_path):
    delta = moved(tiny_bert, LoRA(rank=2), "*.query")
    folder = to_peft(delta, tmp_path / "adapter", base_name="some/base", dtype=torch.bfloat16)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["dtheta.base"]) == dict(delta.base.digests)
        assert all(file.get_tensor(name).dtype == torch.bfloat16 for name in file.keys())
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"


def test_dense_matrix_change_needs_recompress_and_then_works(tiny_bert, tmp_path):
    from dtheta.core.recompress import recompress

    delta = moved(tiny_bert, Full(), "*.query")
    with pytest.raises(Exception, match=r"recompress") as refused:
        to_peft(delta, tmp_path / "adapter")
    assert "query.weight" in str(refused.value)
    full_rank = recompress(delta, 16)
    assert all(isinstance(change, LowRank) for change in full_rank.changes.values())
    assert_same_in_peft(tiny_bert, full_rank, [TOKENS], to_peft(full_rank, tmp_path / "adapter", model=tiny_bert))
