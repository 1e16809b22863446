"""Norms between a value vector and the unembedding, by the names and shapes of tensors.

    the final norm       a sibling of the stack of layers: model.norm, transformer.ln_f, biogpt.layer_norm
    behind the MLP       of each layer of Gemma 2 and 3, OLMo 2 and 3, EXAONE 4, GLM 4: the stream gets norm(W a), not
                         W a

Of each the direction-dependent part is a gain for each feature, stored as it is or, in Gemma and a few others, less 1.
An RMSNorm's factor for each token changes no order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

#: Norms whose gain is 1 plus what is stored. Gemma 3n and Gemma 4 store the gain itself.
_FROM_ONE = (
    "gemma", "gemma2", "gemma3", "gemma3_text", "vaultgemma", "nemotron", "qwen3_5", "qwen3_5_text", "qwen3_next",
)  # fmt: skip
_CENTERED = ("olmo", "hf_olmo", "cohere", "cohere2")  # LayerNorms without a bias that would show in the names
_FINAL = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "layer_norm")
_BEHIND = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_norm2")

Shapes = Mapping[str, tuple[int, ...]]


class FinalNorm(NamedTuple):
    """The norm before the unembedding.

    Attributes:
        gain: Name of its weight, or None where it has none.
        offset: What is added to that weight, and to those behind the MLPs: 1 or 0.
        centered: Whether it takes the mean away.
    """

    gain: str | None
    offset: float
    centered: bool


def final_norm(shapes: Shapes, stack: str, features: int, kind: str) -> FinalNorm:
    """Return the norm that stands beside a stack of layers, such as ``"model.layers"``.

    Args:
        shapes: Of all tensors.
        stack: Name of the stack.
        features: Of the stream.
        kind: ``model_type`` of the configuration, "" where it does not say.
    """
    beside = re.compile(re.escape(stack.rpartition(".")[0] + "." if "." in stack else "") + r"([^.]+)\.weight")
    found = {m[1]: name for name, shape in shapes.items() if shape == (features,) and (m := beside.fullmatch(name))}
    stems = [stem for stem in found if "emb" not in stem]  # norms of the embedding stand there as well
    stem = next((end for end in _FINAL if end in stems), stems[0] if len(stems) == 1 else None)
    gain = None if stem is None else found[stem]
    centered = kind in _CENTERED or (gain is not None and f"{gain.removesuffix('weight')}bias" in shapes)
    return FinalNorm(gain, 1.0 if kind in _FROM_ONE else 0.0, centered)


def norm_behind(shapes: Shapes, layer: str, features: int) -> str | None:
    """Return the name of the gain between a layer's down-projection and the stream; None where there is no norm.

    Args:
        shapes: Of all tensors.
        layer: Name of the layer, such as ``"model.layers.3"``.
        features: Of the stream.
    """
    names = (f"{layer}.{end}.weight" for end in _BEHIND)
    return next((name for name in names if shapes.get(name) == (features,)), None)
