"""GGUF to Hugging Face: a small Llama written with the gguf package, read back, and compared output by output."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize

from dtheta.errors import FormatError, UnsupportedLayer
from dtheta.models.gguf import convert_llama, unpermute
from dtheta.models.load import load_model, load_tokenizer

_PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
          "lm_head.weight": "output.weight"}  # fmt: skip


def _permute(weight, heads):
    """What llama.cpp's converter does to query and key rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _gguf_name(name):
    if name in _WHOLE:
        return _WHOLE[name]
    _, _, block, rest = name.split(".", 3)
    return f"blk.{block}.{_PARTS[rest.removesuffix('.weight')]}.weight"


@pytest.fixture
def write(tmp_path, tiny_llama):
    """Write ``tiny_llama`` as GGUF and return the path; arguments spoil it."""

    def write(architecture="llama", pre="smollm", quantization=gguf.GGMLQuantizationType.F32, extra=None, rope=None):
        config = tiny_llama.config
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", architecture)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        if rope == "scaled":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        if rope == "partial":
            writer.add_rope_dimension_count(2)
        _write_tokenizer(writer, pre)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for name, parameter in tiny_llama.state_dict().items():
            weight, part = parameter.numpy(), name.split(".")[-2]
            weight = _permute(weight, heads[part]) if part in heads else weight
            kind = quantization if weight.ndim == 2 and weight.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(_gguf_name(name), quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)
        if extra:
            writer.add_tensor(extra, np.zeros(4, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "tiny.gguf"

    return write


def _write_tokenizer(writer, pre):
    tokens = ["<unk>", "<s>", "</s>", *map(chr, range(ord("!"), ord("!") + 59)), "Ġ", "AB"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_model_comes_back_bit_by_bit(write, folder, tiny_llama):
    convert_llama(write(), folder)
    model = load_model(folder)
    state = model.state_dict()
    assert state.keys() == tiny_llama.state_dict().keys()
    assert all(torch.equal(state[name], weight) for name, weight in tiny_llama.state_dict().items())
    ids = torch.arange(12).reshape(2, 6)
    assert torch.equal(model(ids).logits, tiny_llama(ids).logits)


def test_quantized_weights_are_the_nearest_levels(write, folder, tiny_llama):
    convert_llama(write(quantization=gguf.GGMLQuantizationType.Q8_0), folder)
    name = "model.layers.0.mlp.down_proj.weight"
    weight, exact = load_model(folder).state_dict()[name], tiny_llama.state_dict()[name]
    step = exact.abs().amax(1, keepdim=True) / 127
    assert not torch.equal(weight, exact)
    assert ((weight - exact).abs() <= 0.6 * step).all()  # half a step, and the float16 rounding of the step itself


def test_the_file_needs_no_private_mode(write, folder):
    convert_llama(write(), folder)
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_the_tokenizer_comes_back(write, folder):
    convert_llama(write(), folder)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("</s>12 +").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["</s>", "1", "2", "Ġ", "+"]
    assert tokenizer.decode(ids) == "</s>12 +"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)


def test_unpermute_undoes_the_converter():
    weight = np.arange(24.0).reshape(12, 2)
    for heads in (1, 2, 3):
        assert np.array_equal(unpermute(_permute(weight, heads), heads), weight)
    assert not np.array_equal(_permute(weight, 3), weight)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2'; only 'llama'"),
        ({"pre": "llama-bpe"}, "tokenizer of kind"),
        ({"extra": "blk.0.attn_q.bias"}, r"tensor 'blk\.0\.attn_q\.bias'"),
        ({"rope": "scaled"}, "llama.rope.scaling.type = 'linear'"),
        ({"rope": "partial"}, "llama.rope.dimension_count = 2"),
        ({"extra": "rope_freqs.weight"}, "tensor 'rope_freqs.weight'"),
    ],
)
def test_other_models_are_refused(write, folder, spoil, message):
    with pytest.raises(UnsupportedLayer, match=message):
        convert_llama(write(**spoil), folder)


def test_damaged_files_are_refused(write, folder, tmp_path):
    content = write().read_bytes()
    for size in (0, 10, 200, len(content) // 2, len(content) - 40):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"cut\.gguf"):
            convert_llama(tmp_path / "cut.gguf", folder)
    (tmp_path / "cut.gguf").write_bytes(b"not a model at all, but long enough to look at")
    with pytest.raises(FormatError, match="not a readable GGUF"):
        convert_llama(tmp_path / "cut.gguf", folder)
