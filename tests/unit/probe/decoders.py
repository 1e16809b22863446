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


DECODERS = {"llama": llama, "qwen": qwen, "gemma": gemma, "olmo": olmo, "gpt2": gpt2, "neox": neox, "opt": opt}


def _made(architecture: Any, config: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return model.eval()
