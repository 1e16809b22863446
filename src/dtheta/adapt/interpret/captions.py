"""What a head of a CLIP image tower writes, in words: how it varies over images, explained by captions of a list.

    c_kE  = P gamma (o_k - mean(o_k)) / sigma_k        what head h adds to the embedding of image k
    o_k   = W_O[:, h] z_hk                             z_hk its attention-weighted values at the class token
    P, gamma, sigma_k                                  projection, scale and deviation of the last layer norm

The layer norm is linearized as usual: sigma_k is that of the whole residual stream at image k, so the contributions of
all parts add up to the embedding less a constant. Then, greedily (TextSpan: Gandelsman et al. 2024, arXiv 2310.05916,
algorithm 1), with C (K, E) centered over the images and R (N, E) the captions' embeddings less their mean, of unit
length and then projected on the row space of C:

    pick the caption whose R_n C^T varies most over the images; take its direction out of C and of R; again

The directions are orthogonal, so their shares of ||C||^2 add up, to at most 1. A head has as much in common with its
captions as they explain, and no more: with a few percent the words say little.

Shape legend: K images, N captions, E joint features, S heads asked for, B images of a batch, D features of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.interpret.layers import AttentionLayer, attention_layers
from dtheta.core.arguments import whole
from dtheta.core.modes import kept_modes
from dtheta.core.tensors import attached_to
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer, did_you_mean
from dtheta.models.image_text import image_text_classifier, towers

Place = tuple[str, int]  # name of an attention module and number of a head in it
_BATCH = 64
_ROW_SPACE = 1e-6  # singular values of C below this share of the largest are rounding
_TOWER = "vision_model."


@dataclass(frozen=True)
class Caption:
    """A caption of a head, and the share of the variance of the head's contributions along its direction, 0 to 1."""

    text: str
    explained: float


def describe_heads(
    model: nn.Module,
    tokenizer: Any,
    heads: Sequence[Place],
    pixel_values: Float[Tensor, "K 3 H W"],
    captions: Sequence[str],
    count: int = 5,
) -> list[list[Caption]]:
    """Return, for each head, the captions that explain most of what it writes, best first.

    For the heads that a delta changed, run it before and inside ``dt.applied(model, delta)``.

    Args:
        model: A transformers CLIPModel.
        tokenizer: Its tokenizer.
        heads: Layer and head, such as ``[h.place for h in changed_heads(model, delta)[:5]]``.
        pixel_values: At least two images, as the model wants them.
        captions: At least two texts.
        count: Captions a head, at most; fewer where nothing is left to explain.

    Raises:
        ConfigError: Fewer than two images or captions, a head that the image tower does not have, an attached adapter.
        UnsupportedLayer: Another model than a CLIPModel.
    """
    whole(count, "count", 1)
    contributions_SKE = head_contributions(model, heads, pixel_values)
    texts_NE = caption_features(model, tokenizer, captions)
    return [
        [Caption(captions[n], share) for n, share in text_span(head_KE, texts_NE, count)]
        for head_KE in contributions_SKE
    ]


def caption_features(model: nn.Module, tokenizer: Any, captions: Sequence[str]) -> Float[Tensor, "N E"]:
    """Return the unit embeddings of captions."""
    classifier = image_text_classifier(model, tokenizer, captions, "{}")
    with kept_modes(model), torch.no_grad():
        return classifier.text_features()


def head_contributions(
    model: nn.Module, heads: Sequence[Place], pixel_values: Float[Tensor, "K 3 H W"]
) -> Float[Tensor, "S K E"]:
    """Return what heads of the image tower add to the embedding of each image, before it gets unit length.

    Raises:
        As ``describe_heads``.
    """
    chosen = _chosen(model, heads)
    if len(pixel_values) < 2:
        raise ConfigError(f"what a head writes must vary: expected at least two images, found {len(pixel_values)}")
    with kept_modes(model), torch.no_grad(), _watched(model, {layer.name: layer for layer, _ in chosen}) as seen:
        parts = []
        for batch in pixel_values.split(_BATCH):
            towers(model).image_features(batch)
            parts.append(torch.stack([_contribution(model, layer, head, seen) for layer, head in chosen]))
    return torch.cat(parts, 1)


def text_span(
    contributions_KE: Float[Tensor, "K E"], texts_NE: Float[Tensor, "N E"], count: int = 5
) -> list[tuple[int, float]]:
    """Return the texts that explain most of the variance of contributions, greedily: (index, share), best first.

    Args:
        contributions_KE: One row an image.
        texts_NE: One row a text.
        count: Texts to pick, at most; fewer where nothing is left to explain.

    Raises:
        ConfigError: Fewer than two images or texts.
        ShapeMismatch: Rows of different length.
    """
    if len(contributions_KE) < 2 or len(texts_NE) < 2:
        raise ConfigError(
            f"expected at least two images and two captions, found {len(contributions_KE)} and {len(texts_NE)}"
        )
    if contributions_KE.shape[1] != texts_NE.shape[1]:
        raise ShapeMismatch(f"contributions of {contributions_KE.shape[1]} and texts of {texts_NE.shape[1]} features")
    C_KE = contributions_KE.double() - contributions_KE.double().mean(0)
    R_NE = _in_row_space(F.normalize(texts_NE.double() - texts_NE.double().mean(0), dim=1), C_KE)
    total = float(C_KE.square().sum())
    least, found = _ROW_SPACE * float(R_NE.norm(dim=1).max()), []
    while len(found) < min(count, len(texts_NE)) and total > 0:
        best = int((C_KE @ R_NE.mT).square().sum(0).argmax())
        if not float(R_NE[best].norm()) > least:
            break
        direction_E = F.normalize(R_NE[best], dim=0)
        along_K = C_KE @ direction_E
        found.append((best, float(along_K.square().sum()) / total))
        C_KE = C_KE - along_K[:, None] * direction_E
        R_NE = R_NE - (R_NE @ direction_E)[:, None] * direction_E
    return found


def _in_row_space(R_NE: Tensor, C_KE: Tensor) -> Float64[Tensor, "N E"]:
    _, S, Vh = torch.linalg.svd(C_KE, full_matrices=False)
    basis = Vh[S > _ROW_SPACE * S[0]]
    return R_NE @ basis.mT @ basis


def _chosen(model: nn.Module, heads: Sequence[Place]) -> list[tuple[AttentionLayer, int]]:
    vision = getattr(model, "vision_model", None)
    if not all(hasattr(vision, name) for name in ("post_layernorm", "encoder")) or not hasattr(
        model, "visual_projection"
    ):
        raise UnsupportedLayer(
            f"{type(model).__name__}: heads are described in the image tower of a transformers CLIPModel; "
            "changed_heads works on any model with attention"
        )
    if on := attached_to(model):
        raise ConfigError(
            f"an adapter sits on {on[0]!r}, beside the weights that are read here; "
            "detach it and use dt.applied(model, delta)"
        )
    if not heads:
        raise ConfigError(
            "no heads were given; take some of changed_heads(model, delta), such as [h.place for h in it]"
        )
    layers = {layer.name: layer for layer in attention_layers(model) if layer.name.startswith(_TOWER)}
    return [(_known(layers, name, head), head) for name, head in heads]


def _known(layers: dict[str, AttentionLayer], name: str, head: int) -> AttentionLayer:
    if name not in layers:
        raise ConfigError(f"{name!r} is no attention layer of the image tower{did_you_mean(name, layers)}")
    if not 0 <= head < layers[name].heads:
        raise ConfigError(f"{name} has heads 0 to {layers[name].heads - 1}, found {head}")
    return layers[name]


@contextmanager
def _watched(model: Any, layers: dict[str, AttentionLayer]) -> Iterator[dict[str, Tensor]]:
    """Note, in each forward, the class token before each output projection and before the last layer norm."""
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, name: str) -> Any:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0] if inputs[0].ndim == 2 else inputs[0][:, 0]

        return module.register_forward_pre_hook(keep)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(note(layer.output.owners[0].module, name))
        stack.enter_context(note(model.vision_model.post_layernorm, ""))
        yield seen


def _contribution(model: Any, layer: AttentionLayer, head: int, seen: dict[str, Tensor]) -> Float[Tensor, "B E"]:
    z_BD = seen[layer.name].unflatten(1, (layer.heads, layer.width))[:, head]
    O_MD = layer.output_slice(head).of(layer.output.tensor).to(z_BD.dtype)
    written_BM = z_BD @ O_MD.mT
    norm, stream_BM = model.vision_model.post_layernorm, seen[""]
    sigma_B1 = (stream_BM.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    return model.visual_projection((written_BM - written_BM.mean(1, keepdim=True)) / sigma_B1 * norm.weight)
