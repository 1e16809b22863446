"""Where prompts enter an image-text model: its text tower, its vision tower, and the module that reads both.

    CLIPModel of transformers   text_model by ids        vision_model: after pre_layrnorm, before every later layer
    DualEncoder                 text by embeddings       a CNN: no columns, so no visual prompt
    CLIP of open_clip           encode_text by ids       visual: after ln_pre, before every later block

The model may stand inside others, such as an ImageTextClassifier.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from dtheta.adapt.prompts.family import Family, family, outermost
from dtheta.errors import ShapeMismatch, UnsupportedLayer

Kind = Literal["clip", "dual", "open_clip"]


@dataclass(frozen=True, eq=False)
class TextTower:
    """A text tower.

    Attributes:
        core: The module whose forward is widened.
        call: The name of that forward.
        embedding: The token embedding.
        width: d_t.
        limit: Positions that it has; None where they are computed.
        end: The id at which texts are pooled; None for the largest id of a text.
        family: The encoder that takes embeddings, where the tower is one; None where it takes ids only.
    """

    core: nn.Module
    call: str
    embedding: nn.Module
    width: int
    limit: int | None
    end: int | None = None
    family: Family | None = None

    @property
    def placeholder(self) -> int:
        """An id that is neither the end of a text nor the largest."""
        return 0 if self.end != 0 else 1


@dataclass(frozen=True, eq=False)
class VisionTower:
    """A vision transformer that pools at its first column.

    Attributes:
        core: The module that takes images.
        entry: The norm behind the embeddings; its output is what the layers get.
        layers: The layers.
        embedding: The convolution that embeds patches.
        width: d_v.
        patch: p, pixels of a side.
        batch_first: Whether layers take (B, T, d), and not (T, B, d).
    """

    core: nn.Module
    entry: nn.Module
    layers: tuple[nn.Module, ...]
    embedding: nn.Module
    width: int
    patch: int
    batch_first: bool = True


@dataclass(frozen=True, eq=False)
class Towers:
    """An image-text model, seen from where prompts enter it.

    Attributes:
        outer: What the prompt was attached to.
        model: The image-text model in it.
        text: Its text tower.
        vision: Its vision tower, or why no prompt can enter that.
        joint: Features of the space of both towers.
        classifier: The ImageTextClassifier around the model, if there is one.
    """

    outer: nn.Module
    model: nn.Module
    text: TextTower
    vision: VisionTower | str
    joint: int
    classifier: nn.Module | None

    def need_vision(self) -> VisionTower:
        """Return the vision tower.

        Raises:
            UnsupportedLayer: If no prompt can enter it.
        """
        if isinstance(self.vision, str):
            raise UnsupportedLayer(
                f"no visual prompt can enter {type(self.model).__name__}: {self.vision}; use CoOp, or move its weights "
                "by LoRA, PiSSA, ..."
            )
        return self.vision

    def need_classifier(self) -> Any:
        """Return the classifier.

        Raises:
            UnsupportedLayer: If the model is in none.
        """
        if self.classifier is None:
            advice = "wrap it: dtheta.models.image_text_classifier(model, tokenizer, classes)"
            if self.several:
                advice = (
                    "several tasks share CoOp, VPT or UPT without per_class; attach CoCoOp to one task's classifier"
                )
            raise UnsupportedLayer(
                f"{type(self.outer).__name__} is no ImageTextClassifier, whose classes are needed here; {advice}"
            )
        return self.classifier

    @property
    def several(self) -> bool:
        """Whether classifiers of several tasks share the model."""
        loaded = sys.modules.get("dtheta.models.multitask_images")
        return loaded is not None and isinstance(self.outer, loaded.MultiTaskImages)


def towers(model: nn.Module) -> Towers:
    """Return the towers of an image-text model, or of the one inside a model.

    Raises:
        UnsupportedLayer: If there is none, or several, or the text tower has no place for a prompt.
    """
    kinds = {kind: found for kind in _FIND if (found := _of_kind(model, kind))}
    found = [(kind, inner) for kind, inners in kinds.items() for inner in inners]
    if len(found) != 1:
        many = f"{len(found)} image-text models, and a prompt is for one; attach to that one"
        raise UnsupportedLayer(
            f"{type(model).__name__} holds {many if found else 'no image-text model that is known here'}"
            + ("" if found else ": CLIPModel of transformers, DualEncoder, or CLIP of open_clip. " + _HINT)
        )
    kind, inner = found[0]
    text, vision, joint = _READ[kind](inner)
    classifier = sys.modules.get("dtheta.models.image_text")
    wraps = [] if classifier is None else outermost(model, classifier.ImageTextClassifier)
    return Towers(model, inner, text, vision, joint, wraps[0] if wraps else None)


def require_text_room(tower: TextTower, length: int) -> None:
    """Raise unless a text tower has positions left beside so many vectors: two for the ends of a text, one for a name.

    Raises:
        ShapeMismatch: If it has none.
    """
    if tower.limit is not None and length + 3 > tower.limit:
        raise ShapeMismatch(
            f"{length} context vectors leave no position for a name: {type(tower.core).__name__} has {tower.limit}; "
            "choose a smaller length"
        )


_HINT = "For a text model use PromptTuning, DePT, PTuning or PrefixTuning"
#: The module that defines each kind once it is loaded, and its class; nothing is imported to look for them.
_FIND = {
    "clip": ("transformers.models.clip.modeling_clip", "CLIPModel"),
    "dual": ("dtheta.models.dual", "DualEncoder"),
    "open_clip": ("open_clip.model", "CLIP"),
}


def _of_kind(model: nn.Module, kind: str) -> list[nn.Module]:
    module, name = _FIND[kind]
    loaded = getattr(sys.modules.get(module), name, None)
    return [] if loaded is None else outermost(model, loaded)


def _part(model: nn.Module, *path: str) -> Any:
    """Return a module inside a model.

    Raises:
        UnsupportedLayer: If there is none of that name, as in a model that was changed.
    """
    found: Any = model
    for name in path:
        found = getattr(found, name, None)
    if not isinstance(found, nn.Module):
        raise UnsupportedLayer(
            f"{type(model).__name__} has no {'.'.join(path)}, by which a prompt enters; only models built as their "
            "library builds them are supported"
        )
    return found


def _clip(model: Any) -> tuple[TextTower, VisionTower, int]:
    core, embedding = _part(model, "text_model"), _part(model, "text_model", "embeddings", "token_embedding")
    positions = _part(model, "text_model", "embeddings", "position_embedding")
    end = core.config.eos_token_id  # 2 in configurations of old, whose models pool at the largest id
    width, limit = embedding.weight.shape[1], positions.num_embeddings
    text = TextTower(core, "forward", embedding, width, limit, None if end == 2 else end)
    core, patch = _part(model, "vision_model"), _part(model, "vision_model", "embeddings", "patch_embedding")
    layers = tuple(_part(model, "vision_model", "encoder", "layers"))
    entry = _part(model, "vision_model", "pre_layrnorm")
    vision = VisionTower(core, entry, layers, patch, patch.weight.shape[0], patch.weight.shape[-1])
    return text, vision, _part(model, "visual_projection").weight.shape[0]


def _dual(model: Any) -> tuple[TextTower, str, int]:
    found = family(_part(model, "text"))
    text = TextTower(found.core, "forward", found.embedding, found.width, found.limit, family=found)
    why = f"its vision tower is a CNN ({type(_part(model, 'image')).__name__}), which has no columns of tokens"
    return text, why, _part(model, "text_projection").out_features


def _open_clip(model: Any) -> tuple[TextTower, VisionTower | str, int]:
    pool = getattr(model, "text_pool_type", "argmax")
    if pool != "argmax":
        raise UnsupportedLayer(f"the text tower of {type(model).__name__} pools by {pool!r}; expected 'argmax'")
    embedding, limit = _part(model, "token_embedding"), len(model.positional_embedding)
    text = TextTower(model, "encode_text", embedding, embedding.weight.shape[1], limit)
    projection = model.text_projection  # a parameter (d_t, E), or a linear layer
    joint = projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
    return text, _open_vision(_part(model, "visual")), joint


def _open_vision(visual: Any) -> VisionTower | str:
    entry: Any = getattr(visual, "ln_pre", None)
    patch: Any = getattr(visual, "conv1", None)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if not (isinstance(entry, nn.Module) and isinstance(patch, nn.Conv2d) and isinstance(blocks, nn.ModuleList)):
        return f"its vision tower is a {type(visual).__name__}, which has no columns of tokens that are known here"
    pool = getattr(visual, "pool_type", "tok")
    if pool != "tok" or getattr(visual, "attn_pool", None) is not None:
        return f"its vision tower pools over all columns ({pool!r}), and virtual ones would be pooled in"
    if getattr(visual, "output_tokens", False):
        return "its vision tower returns its columns (output_tokens), and virtual ones would be among them"
    first = bool(getattr(visual.transformer, "batch_first", False))
    width, _, _, size = patch.weight.shape
    return VisionTower(visual, entry, tuple(blocks), patch, width, size, first)


_READ: dict[str, Any] = {"clip": _clip, "dual": _dual, "open_clip": _open_clip}
