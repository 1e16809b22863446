"""From a Llama-architecture GGUF file to a Hugging Face folder: config.json, model.safetensors and the tokenizer.

The base here is *the de-quantised weights*: every block of 32 weights has at most 16 levels, so the tail of a spectrum
is quantisation noise, and deltas are relative to these float32 numbers, not to the original training checkpoint.

    Q4_1: 32 weights in 20 bytes, w = d q + m        Q8_0: 32 weights in 34 bytes, w = d q

llama.cpp stores the rows of the query and key projections permuted for its own rotary embedding: within a head, row
``2 i + j`` there is row ``j head_dim/2 + i`` of the Hugging Face layout. Undone here; forgetting it gives garbage.

Source: the GGUF specification and llama.cpp's converter, as read from the files. Shape legend: h heads, d half of the
head dimension, n input features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from dtheta.errors import FormatError, UnsupportedLayer

if TYPE_CHECKING:
    from gguf import GGUFReader

_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_CONTROL = 3  # token type of llama.cpp: a special token, never made by merges


def convert_llama(path: Path, folder: Path) -> None:
    """Write the Llama model in the GGUF file ``path`` into ``folder`` as a float32 Hugging Face model and tokenizer.

    Raises:
        UnsupportedLayer: another architecture, tokenizer kind or tensor than Llama's, or positions that are stretched.
        FormatError: the file is not readable GGUF.
    """
    reader = _open(path)
    fields = dict(reader.fields)
    if (architecture := _value(fields, "general.architecture")) != "llama":
        raise UnsupportedLayer(f"{path.name} holds a model of architecture {architecture!r}; only 'llama' is read")
    config = _config(fields, tied="output.weight" not in {tensor.name for tensor in reader.tensors})
    config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(_weights(reader, config), weights, metadata={"format": "pt"})
    weights.chmod((folder / "config.json").stat().st_mode)  # safetensors makes private files; a cache may be shared
    _tokenizer(fields, path.name).save_pretrained(folder)


def _open(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise FormatError(f"{path.name} is not a readable GGUF file: {error}") from error


def _value(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise FormatError(f"the GGUF file has no field {name!r}, which a Llama model needs")
    return fields[name].contents()


def _config(fields: dict[str, Any], tied: bool) -> Any:
    from transformers import LlamaConfig

    _require_plain_rotary(fields)
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(_value(fields, "tokenizer.ggml.tokens")),
        hidden_size=_value(fields, "llama.embedding_length"),
        intermediate_size=_value(fields, "llama.feed_forward_length"),
        num_hidden_layers=_value(fields, "llama.block_count"),
        num_attention_heads=_value(fields, "llama.attention.head_count"),
        num_key_value_heads=_value(fields, "llama.attention.head_count_kv"),
        max_position_embeddings=_value(fields, "llama.context_length"),
        rms_norm_eps=round(_value(fields, "llama.attention.layer_norm_rms_epsilon"), 12),  # stored as float32
        rope_parameters={"rope_type": "default", "rope_theta": _value(fields, "llama.rope.freq_base")},
        tie_word_embeddings=tied,
        bos_token_id=_value(fields, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_value(fields, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_value(fields, "tokenizer.ggml.padding_token_id"),
        dtype="float32",
    )


def _require_plain_rotary(fields: dict[str, Any]) -> None:
    """Raise for positions that are stretched or rotate a part of a head only: read without, the model would be another.

    Raises:
        UnsupportedLayer: Naming the field.
    """
    head = _value(fields, "llama.embedding_length") // _value(fields, "llama.attention.head_count")
    plain: dict[str, Any] = {"llama.rope.scaling.type": "none", "llama.rope.scale_linear": 1.0}
    plain |= {"llama.rope.dimension_count": head, "llama.attention.key_length": head}
    for name, wanted in plain.items():
        if name in fields and (found := _value(fields, name)) != wanted:
            raise UnsupportedLayer(f"the GGUF file has {name} = {found!r}; only {wanted!r} is read")


def _weights(reader: GGUFReader, config: Any) -> dict[str, torch.Tensor]:
    from gguf.quants import dequantize

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        name, part = _name(tensor.name)
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        weight = unpermute(weight, heads[part]) if part in heads else weight
        weights[name] = torch.from_numpy(np.array(weight))  # a copy: float32 tensors are views of the read-only file
    return weights


def _name(name: str) -> tuple[str, str]:
    """The Hugging Face name of a GGUF tensor, and which part of a block it is (empty outside the blocks)."""
    if name in _TENSORS:
        return _TENSORS[name], ""
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.rpartition(".")
    if not (name.startswith("blk.") and block.isdecimal() and part in _BLOCK and kind == "weight"):
        raise UnsupportedLayer(f"the GGUF file holds the tensor {name!r}, which a Llama model does not have")
    return f"model.layers.{block}.{_BLOCK[part]}.weight", part


def unpermute(weight_hn: np.ndarray, heads: int) -> np.ndarray:
    """Return query or key rows in Hugging Face's order from llama.cpp's; shape ``(heads * 2 * d, n)`` in and out."""
    rows, columns = weight_hn.shape
    return weight_hn.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(fields: dict[str, Any], filename: str) -> Any:
    """Byte-level BPE as llama.cpp's pre-tokenizer ``smollm`` defines it: single digits, then GPT-2's pattern."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    kind = (_value(fields, "tokenizer.ggml.model"), _value(fields, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UnsupportedLayer(f"{filename} has a tokenizer of kind {kind}; only ('gpt2', 'smollm') is read")
    tokens = _value(fields, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in _value(fields, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = _value(fields, "tokenizer.ggml.token_type")
    control = [token for token, of_type in zip(tokens, types, strict=True) if of_type == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[_value(fields, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[_value(fields, "tokenizer.ggml.eos_token_id")],
        unk_token=tokens[_value(fields, "tokenizer.ggml.unknown_token_id")],
        pad_token=tokens[_value(fields, "tokenizer.ggml.padding_token_id")],
        chat_template=_value(fields, "tokenizer.chat_template"),
        model_max_length=_value(fields, "llama.context_length"),
        clean_up_tokenization_spaces=False,
    )
