"""Tiny random decoders of the layouts that probing reads."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t
from torch import nn

D, N, V, L = 16, 24, 50, 3


def _common(**more: Any) -> dict[str, Any]:
    return dict(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=2, **more)


def llama(**more: Any) -> nn.Module:
    return _made(t.LlamaForCausalLM, t.LlamaConfig(**_common(intermediate_size=N, num_key_value_heads=2), **more))


def qwen() -> nn.Module:
    return _made(t.Qwen2ForCausalLM, t.Qwen2Config(**_common(intermediate_size=N, num_key_value_heads=2)))


def gemma() -> nn.Module:
    config = t.GemmaConfig(**_common(intermediate_size=N, num_key_value_heads=2, head_dim=8))
    return _made(t.GemmaForCausalLM, config)


def gemma2() -> nn.Module:
    """A decoder that caps its logits, after the unembedding."""
    config = t.Gemma2Config(
        **_common(intermediate_size=N, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0)
    )
    return _made(t.Gemma2ForCausalLM, config)


def olmo() -> nn.Module:
    config = t.OlmoConfig(**_common(intermediate_size=N, num_key_value_heads=2, pad_token_id=0, eos_token_id=1))
    return _made(t.OlmoForCausalLM, config)


def gpt2(inner: int = N) -> nn.Module:
    return _made(t.GPT2LMHeadModel, t.GPT2Config(vocab_size=V, n_embd=D, n_layer=L, n_head=2, n_inner=inner))


def neox() -> nn.Module:
    return _made(t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**_common(intermediate_size=N)))


def opt() -> nn.Module:
    config = t.OPTConfig(
        vocab_size=V, hidden_size=D, word_embed_proj_dim=D, num_hidden_layers=L, num_attention_heads=2, ffn_dim=N
    )
    return _made(t.OPTForCausalLM, config)


def gemma3() -> nn.Module:
    config = t.Gemma3TextConfig(**_common(intermediate_size=N, num_key_value_heads=2, head_dim=8))
    return _made(t.Gemma3ForCausalLM, config)


def vaultgemma() -> nn.Module:
    config = t.VaultGemmaConfig(
        **_common(intermediate_size=N, num_key_value_heads=2, head_dim=8, final_logit_softcapping=None)
    )
    return _made(t.VaultGemmaForCausalLM, config)


def olmo2() -> nn.Module:
    config = t.Olmo2Config(**_common(intermediate_size=N, num_key_value_heads=2, pad_token_id=0, eos_token_id=1))
    return _made(t.Olmo2ForCausalLM, config)


def glm4() -> nn.Module:
    config = t.Glm4Config(
        **_common(intermediate_size=N, num_key_value_heads=2, head_dim=8, pad_token_id=0, eos_token_id=1)
    )
    return _made(t.Glm4ForCausalLM, config)


def qwen3_5() -> nn.Module:
    config = t.Qwen3_5TextConfig(
        **_common(intermediate_size=N, num_key_value_heads=2, head_dim=8, layer_types=["full_attention"] * L)
    )
    return _made(t.Qwen3_5ForCausalLM, config)


def nemotron() -> nn.Module:
    config = t.NemotronConfig(
        **_common(intermediate_size=N, num_key_value_heads=2, head_dim=8, bos_token_id=1, eos_token_id=2)
    )
    return _made(t.NemotronForCausalLM, config)


def biogpt() -> nn.Module:
    return _made(t.BioGptForCausalLM, t.BioGptConfig(**_common(intermediate_size=N)))


#: Whose norms are stored, named or placed otherwise.
NORMED = {
    "gemma3": gemma3, "vaultgemma": vaultgemma, "olmo2": olmo2, "glm4": glm4, "qwen3_5": qwen3_5,
    "nemotron": nemotron, "biogpt": biogpt,
}  # fmt: skip
DECODERS = {"llama": llama, "qwen": qwen, "gemma": gemma, "olmo": olmo, "gpt2": gpt2, "neox": neox, "opt": opt}


def _made(architecture: Any, config: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return model.eval()
