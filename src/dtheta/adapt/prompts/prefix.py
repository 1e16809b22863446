"""Prefixes: trained keys and values that stand in the cache before a text (Li and Liang 2021, arXiv 2101.00190).

A layer's entries are (n, H * D), as its key projection would make them of n tokens. They are taken as rotated already:
a trained key needs no position of its own.

Shape legend: n entries, H heads of keys and values, D features of a head, B texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.bundle import Bundle, weighed
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.forward import CACHES, parameters
from dtheta.adapt.prompts.names import prefix_place
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer


def shape_of(found: Family) -> tuple[int, int, int]:
    """Return a decoder's layers, heads of keys and values, and features of a head.

    Raises:
        UnsupportedLayer: For other families, and where not every layer keeps all keys and values.
    """
    config = found.config
    if found.kind != "decoder":
        raise UnsupportedLayer(
            f"a prefix stands in the cache of a decoder, and {type(found.outer).__name__} is an {found.kind}; use "
            "PromptTuning, DePT or PTuning"
        )
    if getattr(config, "sliding_window", None) is not None or "local" in getattr(config, "attention_layers", ()):
        raise UnsupportedLayer(
            f"{type(found.outer).__name__} forgets keys and values outside a window, and with them a prefix"
        )
    heads = getattr(config, "num_attention_heads", None)
    other = {*(getattr(config, "layer_types", None) or ())} - {"full_attention"}
    if heads is None or other or not any(name in parameters(type(found.core)) for name in CACHES):
        raise UnsupportedLayer(
            f"not every layer of {type(found.outer).__name__} keeps keys and values by token"
            f"{': some are ' + ', '.join(sorted(other)) if other else ''}, so a prefix has no place; use PromptTuning"
        )
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, width


def require_dynamic(module: nn.Module, cache: Any) -> None:
    """Raise unless a prefix can stand in the cache.

    Raises:
        ConfigError: If the cache has a fixed size, or activation checkpointing takes it away.
    """
    if getattr(cache, "is_compileable", False):
        raise ConfigError("a prefix needs a cache that grows; leave out cache_implementation='static'")
    if module.training and _checkpoints(module):
        raise ConfigError(
            "a prefix stands in the cache, which activation checkpointing takes away; disable one of them, or use "
            "PromptTuning"
        )


def _checkpoints(module: nn.Module) -> bool:
    """Tell whether a model recomputes its layers in the backward pass; the flag's name changed in transformers 5."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(next((getattr(module, name) for name in names if hasattr(type(module), name)), False))


def filled(bundle: Bundle, found: Family, cache: Any, batch: int) -> Any:
    """Return a cache that holds the prefixes, for so many texts."""
    if cache is None:
        from transformers import DynamicCache

        cache = DynamicCache(config=found.config)
    layers, heads, width = shape_of(found)
    like: Any = found.embedding.weight
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    entries: dict[tuple[int, str], list[Tensor]] = {}
    for term, name, w in bundle.active():
        if (place := prefix_place(name)) is not None:
            entry = weighed(term.matrix(), w).reshape(1, -1, heads, width).transpose(1, 2)
            entries.setdefault(place, []).append(entry.to(like.device, dtype))
    for layer in range(layers):
        pair = [torch.cat(entries[layer, part], 2).expand(batch, -1, -1, -1) for part in ("key", "value")]
        cache.update(*pair, layer)
    return cache


def cut_cache(output: Any) -> Any:
    """Return an output without the cache that the caller did not ask for."""
    for name in CACHES:
        if hasattr(output, "keys") and name in output.keys():  # a ModelOutput lists what is not None
            output[name] = None
    return output


def require_prefix(found: Family, shapes: Mapping[tuple[int, Literal["key", "value"]], tuple[int, int]]) -> None:
    """Raise unless entries (n, H * D) by layer and part fit a decoder.

    Raises:
        ShapeMismatch: If a layer is missing or too many, or an entry has another shape.
        UnsupportedLayer: If the model can have no prefix.
    """
    layers, heads, width = shape_of(found)
    wanted = {(layer, part) for layer in range(layers) for part in ("key", "value")}
    if {*shapes} != wanted or len({shape[0] for shape in shapes.values()}) != 1:
        raise ShapeMismatch(
            f"a prefix needs a key and a value of one length in each of the {layers} layers; found {len(shapes)} "
            "entries. One part of a prefix cannot be attached without the rest"
        )
    for (layer, part), shape in shapes.items():
        if shape[1] != heads * width:
            raise ShapeMismatch(
                f"prefix.{layer}.{part}: has {shape[1]} features, the model's {heads} heads of {width} take "
                f"{heads * width}; it was made for another model"
            )
