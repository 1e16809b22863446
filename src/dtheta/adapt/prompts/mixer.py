"""UPT's mixer: one transformer block that makes the prompts of text and image of one another.

    h = [text W_t ; visual_0 W_v ; ... ; visual_(L-1) W_v]     (S, w)     linear maps only where the width is not w
    h = h + attention(LN(h))                                              one head, no mask
    h = h + W_down quickgelu(W_up LN(h))                                  4 w hidden units
    prompts = h cut apart, (h W'_t, h W'_v)                               nothing is added around the block

Zang et al. 2022, arXiv 2210.07225, with MVLPT's sizes (Shen et al. 2022, arXiv 2211.11720). The input holds no image,
so the output is a constant. It runs in float32 whatever autocast says.

Shape legend: S vectors in all, w features of the mixer, d features of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.prompts.image_names import MIXER, is_mixed, settled, text_place, visual_layer
from dtheta.core.seeds import generator, uniform
from dtheta.errors import ShapeMismatch


def mixer_shapes(width: int, text: int, visual: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a mixer's weights, by part.

    Args:
        width: w.
        text: Features of text embeddings.
        visual: Features of image embeddings.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    for name, features in (("text", text), ("visual", visual)):
        if features != width:
            linear(f"{name}_in", width, features)
            linear(f"{name}_out", features, width)
    for norm in ("attention_norm", "network_norm"):
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    linear("attention_in", 3 * width, width)
    linear("attention_out", width, width)
    linear("network_up", 4 * width, width)
    linear("network_down", width, 4 * width)
    return shapes


def drawn_mixer(width: int, text: int, visual: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights of a mixer at their start, by name: what torch's modules draw by default."""
    made = {}
    for part, shape in mixer_shapes(width, text, visual).items():
        fan_in = mixer_shapes(width, text, visual)[part.replace(".bias", ".weight")][-1]
        made[MIXER + part] = _drawn(part, shape, fan_in, generator(seed, f"UPT/{part}")).to(dtype)
    return made


def _drawn(part: str, shape: tuple[int, ...], fan_in: int, source: torch.Generator) -> Tensor:
    if "norm" in part:
        return torch.full(shape, 1.0 if part.endswith("weight") else 0.0, dtype=torch.float32, device="cpu")
    if part.startswith("attention") and part.endswith("bias"):
        return torch.zeros(shape, dtype=torch.float32, device="cpu")
    # nn.Linear's bound, and that of Xavier's draw for the projection to queries, keys and values
    bound = math.sqrt(6 / sum(shape)) if part == "attention_in.weight" else 1 / math.sqrt(fan_in)
    return uniform(shape, -bound, bound, source)


def mixed(vectors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the prompts that a mixer makes, by the names under which they enter the model.

    Args:
        vectors: The vectors before the mixer, by name.
        weights: The mixer's weights, by name.
    """
    names = _ordered(vectors)
    with torch.autocast(vectors[names[0]].device.type, enabled=False):
        h = torch.cat([_mapped(vectors[name], f"{_side(name)}_in", weights) for name in names])
        h = h + _attended(_normed(h, "attention_norm", weights), weights)
        up = _linear(_normed(h, "network_norm", weights), "network_up", weights)
        h = h + _linear(up * torch.sigmoid(1.702 * up), "network_down", weights)
        parts = h.split([len(vectors[name]) for name in names])
        return {settled(n): _mapped(part, f"{_side(n)}_out", weights) for n, part in zip(names, parts, strict=True)}


def require_mixer(terms: Mapping[str, tuple[int, ...]], text: int, visual: int) -> None:
    """Raise unless the shapes of a delta's vectors hold one whole mixer for a model, or none.

    Raises:
        ShapeMismatch: Naming the part.
    """
    found = {name.removeprefix(MIXER): shape for name, shape in terms.items() if name.startswith(MIXER)}
    sides = {_side(name) for name in terms if is_mixed(name)}
    if not found and not sides:
        return
    if len(sides) < 2:
        found_sides = f"only those of the {min(sides)} side" if sides else "none"
        raise ShapeMismatch(
            f"a mixer makes vectors of text and image, and there are {found_sides}; a part of the delta is missing"
        )
    width = found.get("attention_norm.weight", (0,))[-1]
    expected = mixer_shapes(width, text, visual)
    for part in {**expected, **found}:
        if found.get(part) != expected.get(part):
            raise ShapeMismatch(
                f"{MIXER}{part}: expected {expected.get(part, 'no such part')} for text of {text} and images of "
                f"{visual} features, found {found.get(part, 'none')}; the mixer was made for another model, or a part "
                "of the delta is missing"
            )


def _ordered(vectors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of vectors: those of the text, then by layer."""
    return sorted(vectors, key=lambda name: -1 if (layer := visual_layer(name)) is None else layer)


def _side(name: str) -> str:
    return "text" if text_place(name) is not None else "visual"


def _mapped(x: Tensor, part: str, weights: Mapping[str, Tensor]) -> Tensor:
    """Return vectors at the other width, or as they are where it is the same."""
    return _linear(x, part, weights) if f"{MIXER}{part}.weight" in weights else x


def _linear(x: Tensor, part: str, weights: Mapping[str, Tensor]) -> Tensor:
    return F.linear(x, weights[f"{MIXER}{part}.weight"], weights[f"{MIXER}{part}.bias"])


def _normed(x: Tensor, part: str, weights: Mapping[str, Tensor]) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{MIXER}{part}.weight"], weights[f"{MIXER}{part}.bias"])


def _attended(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    q, k, v = _linear(x, "attention_in", weights).chunk(3, -1)
    scores = q @ k.T / math.sqrt(q.shape[-1])
    return _linear(scores.softmax(-1) @ v, "attention_out", weights)
