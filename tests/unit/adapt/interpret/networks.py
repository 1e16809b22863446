"""Tiny random transformers for the tests of this folder."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

TEXT = {"vocab_size": 50, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}


def clip() -> CLIPModel:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    return _random(CLIPModel, CLIPConfig(text_config=sizes | TEXT, vision_config=vision, projection_dim=12))


def bert() -> BertModel:
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, vocab_size=50)
    return _random(BertModel, config)


def llama() -> LlamaModel:
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        intermediate_size=24, vocab_size=50, bos_token_id=1, eos_token_id=3,
    )  # fmt: skip
    return _random(LlamaModel, config)


def gpt2() -> GPT2Model:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=50, n_positions=12, bos_token_id=1, eos_token_id=3)
    return _random(GPT2Model, config)


def t5() -> T5EncoderModel:
    return _random(T5EncoderModel, T5Config(d_model=16, num_layers=2, num_heads=4, d_kv=4, d_ff=24, vocab_size=50))


def vit() -> ViTModel:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, image_size=16, patch_size=8
    )
    return _random(ViTModel, config)


class TimmAttention(nn.Module):
    """The parameters of timm's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)


def timm() -> nn.Module:
    return _random(lambda _: nn.ModuleDict({"attn": TimmAttention()}), None)


def torch_attention() -> nn.Module:
    return _random(lambda _: nn.ModuleDict({"attn": nn.MultiheadAttention(16, 4)}), None)


def _random(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    for p in model.parameters():  # the usual start is so small that all heads look alike
        if p.ndim == 2:
            nn.init.normal_(p, std=0.3)
    return model
