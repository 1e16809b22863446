"""Tiny random image-text models, and their forwards written out by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.seeds import generator
from dtheta.models.dual import DualEncoder
from dtheta.models.image_text import ImageTextClassifier

BOS, EOS = 48, 49
NAMES = [[3, 4, 5], [6], [7, 8]]
CLASSES = ("one", "two", "three")


def shaken(model: Any, name: str) -> Any:
    """Return a model with every parameter moved away from its start, in eval mode."""
    with torch.no_grad():
        for index, p in enumerate(model.parameters()):
            p.add_(torch.randn(p.shape, generator=generator(0, name, index)), alpha=0.1)
    return model.eval()


def make_clip(attention: str = "eager", eos: int = EOS, heads: int = 2) -> Any:
    """Return a tiny CLIPModel; the same numbers at every call. With eos=2 it pools at the largest id."""
    import transformers as t

    text = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "eos_token_id": eos}
    image = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8}
    given: dict[str, Any] = {"attn_implementation": attention}
    config = t.CLIPConfig(
        text_config={**text, "num_attention_heads": heads, "max_position_embeddings": 20, "bos_token_id": BOS},
        vision_config={**image, "num_attention_heads": heads},
        projection_dim=64,
        **given,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shaken(t.CLIPModel(config), "clip")


def make_dual() -> DualEncoder:
    """Return a dual encoder with a tiny text tower."""
    import transformers as t

    config = t.BertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=20, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DualEncoder(config).eval()
    shaken(model.text, "dual")
    return model


def texts(names: list[list[int]] = NAMES, columns: int | None = None) -> dict[str, Tensor]:
    """Return ids [BOS name EOS] of several names padded by EOS, and their mask."""
    rows = [[BOS, *name, EOS] for name in names]
    width = columns or max(map(len, rows))
    ids = torch.tensor([row + [EOS] * (width - len(row)) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(width)[None] < torch.tensor([[len(r)] for r in rows])).long(),
    }


def pictures(count: int = 4) -> Tensor:
    """Return images of 16 x 16."""
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def make_classifier(model: nn.Module) -> ImageTextClassifier:
    """Return a classifier of the three names."""
    given = texts()
    return ImageTextClassifier(model, CLASSES, ("{}",), given["input_ids"], given["attention_mask"])


def shake(adapter: Any, seed: int = 1) -> Any:
    """Move every trained number."""
    with torch.no_grad():
        for index, p in enumerate(adapter.trainable().values()):
            p.add_(torch.randn(p.shape, generator=generator(seed, "shake", index)), alpha=0.3)
    return adapter


def vectors(adapter: Any, name: str) -> Tensor:
    """Return the values of one vector."""
    return adapter.term(name).matrix().detach()


def attended(layer: Any, x: Tensor, causal: bool) -> Tensor:
    """Return what a layer makes of states (B, T, d)."""
    own, h = layer.self_attn, layer.layer_norm1(x)
    heads, width = own.num_heads, x.shape[-1] // own.num_heads
    q, k, v = (
        project(h).unflatten(-1, (heads, width)).transpose(1, 2) for project in (own.q_proj, own.k_proj, own.v_proj)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(width)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    x = x + own.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))
    up = layer.mlp.fc1(layer.layer_norm2(x))
    return x + layer.mlp.fc2(up * torch.sigmoid(1.702 * up))


def text_features(model: Any, rows: list[Tensor]) -> Tensor:
    """Return CLIP's text features (B, E) of sequences of embeddings, the last of each being the end of the text."""
    found, tower = [], model.text_model
    for row in rows:
        x = (row + tower.embeddings.position_embedding.weight[: len(row)])[None]
        for layer in tower.encoder.layers:
            x = attended(layer, x, causal=True)
        found.append(tower.final_layer_norm(x)[0, -1])
    return model.text_projection(torch.stack(found))


def with_context(model: Any, context: list[Tensor], position: str, names: list[list[int]] = NAMES) -> list[Tensor]:
    """Return the embeddings of every text with its context (n, d)."""
    table, rows = model.text_model.embeddings.token_embedding.weight, []
    for name, u in zip(names, context, strict=True):
        cut = {"end": len(u), "front": 0, "middle": len(u) // 2}[position]
        rows.append(torch.cat([table[[BOS]], u[:cut], table[name], u[cut:], table[[EOS]]]))
    return rows


def embedded(tower: Any, images: Tensor) -> Tensor:
    """Return what the layers of a vision tower get, past the hooks on it."""
    return type(tower.pre_layrnorm).forward(tower.pre_layrnorm, tower.embeddings(images))


def image_features(model: Any, images: Tensor, columns: dict[int, Tensor]) -> Tensor:
    """Return CLIP's image features (B, E) with vectors (n, d) after [CLS] by layer."""
    tower = model.vision_model
    x = embedded(tower, images)
    n = len(columns[0])
    for index, layer in enumerate(tower.encoder.layers):
        if index == 0:
            x = torch.cat([x[:, :1], columns[0].expand(len(x), -1, -1), x[:, 1:]], 1)
        elif index in columns:
            x = torch.cat([x[:, :1], columns[index].expand(len(x), -1, -1), x[:, 1 + n :]], 1)
        x = attended(layer, x, causal=False)
    return model.visual_projection(tower.post_layernorm(x[:, 0]))


def cosines(image: Tensor, text: Tensor, model: Any) -> Tensor:
    """Return scaled cosines (B, C)."""
    return model.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
