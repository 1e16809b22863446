"""Wiring of prompts of image-text models: one bundle a model, put on with its first prompt, taken off with its last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.columns import ColumnHooks
from dtheta.adapt.prompts.conditional import ConditionalForward, require_meta
from dtheta.adapt.prompts.context import ContextForward
from dtheta.adapt.prompts.family import name_of
from dtheta.adapt.prompts.image_names import (
    MIXER,
    TextPlace,
    is_conditional,
    is_image_prompt,
    is_mixed,
    text_place,
    visual_layer,
)
from dtheta.adapt.prompts.mixer import require_mixer
from dtheta.adapt.prompts.tower_bundle import TowerBundle, TowerPrompt
from dtheta.adapt.prompts.towers import Towers, require_text_room, towers
from dtheta.adapt.term import Term
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer


class TowerLink:
    """One adapter's prompt on one image-text model, until it is taken away."""

    def __init__(self, found: Towers, bundle: TowerBundle, prompt: TowerPrompt, beside: tuple[str, ...]) -> None:
        self.beside = beside  # the names of the embeddings among which the prompt stands
        self.bundle = bundle
        self.prompt = prompt
        bundle.prompts.append(prompt)
        # a model that calls its towers by itself runs the mixer once for both
        self.handles = [
            found.outer.register_forward_pre_hook(_Scope(bundle.begin)),
            found.outer.register_forward_hook(_Scope(bundle.leave), always_call=True),
        ]

    def constants(self, weight: float) -> dict[str, Tensor]:
        """Return the vectors that the prompt amounts to at a weight, by name.

        Raises:
            ConfigError: If they depend on the image.
        """
        if self.prompt.conditional:
            raise ConfigError("CoCoOp's context depends on the image, so no constant vectors are equivalent to it")
        with torch.no_grad():
            return {name: values.detach().clone() for name, values in self.prompt.vectors(weight).items()}

    def remove(self) -> None:
        """Take the prompt away; the last one leaves the model as it was before the first."""
        self.bundle.prompts.remove(self.prompt)
        for handle in self.handles:
            handle.remove()
        if not self.bundle.prompts:
            while self.bundle.undo:
                self.bundle.undo.pop()()


class _Scope:
    """A hook that is known to be ours."""

    is_dtheta_term = True

    def __init__(self, call: Callable[..., None]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:
        self.call()


def connect(model: nn.Module, terms: Mapping[str, Term], weight: Callable[[], float]) -> TowerLink:
    """Put the vectors of a prompt on an image-text model.

    Raises:
        UnsupportedLayer: If the model is none that they can enter.
        ShapeMismatch: If they do not fit it.
    """
    found = towers(model)
    require_fit(found, terms)
    for term in terms.values():
        term.to(found.text.embedding.weight.device)  # type: ignore[arg-type]
    prompt = TowerPrompt(terms, weight)
    beside = [found.text.embedding] if prompt.place is not None else []
    if prompt.columns:
        beside.append(found.need_vision().embedding)
    return TowerLink(found, _bundle(found, prompt), prompt, tuple(name_of(model, module) for module in beside))


def require_fit(found: Towers, terms: Mapping[str, Term]) -> None:
    """Raise unless vectors fit a model.

    Raises:
        ShapeMismatch: If widths, lengths or layers are others, or parts are missing.
        UnsupportedLayer: If the model has no place for them.
        ConfigError: If prompts of text models are among them.
    """
    if other := next((name for name in terms if not is_image_prompt(name)), None):
        raise ConfigError(f"{other} is of a text model, and cannot be beside prompts of an image-text model")
    shapes = {name: tuple(term.matrix().shape) for name, term in terms.items()}
    texts = {name: place for name in terms if (place := text_place(name)) is not None}
    columns = {name: layer for name in terms if (layer := visual_layer(name)) is not None}
    if len({is_mixed(name) for name in (*texts, *columns)}) > 1 or len(texts) > 1:
        raise ShapeMismatch(
            f"{', '.join([*texts, *columns][:4])}: one prompt has one context, and all its vectors go through a mixer "
            "or none; attach the parts one by one"
        )
    for name, place in texts.items():
        _require_context(found, name, place, shapes[name])
    if columns:
        _require_columns(found, columns, shapes)
    if any(is_mixed(name) or name.startswith(MIXER) for name in terms):
        require_mixer(shapes, found.text.width, found.need_vision().width)
    if is_conditional(terms):
        require_meta(found, shapes, bool(texts))


def _require_context(found: Towers, name: str, place: TextPlace, shape: tuple[int, ...]) -> None:
    _require_width(name, shape, found.text.width, f"the text embeddings of {type(found.model).__name__}")
    if place.classes and shape[0] % place.classes:
        raise ShapeMismatch(f"{name}: has {shape[0]} rows, which is no multiple of {place.classes} classes")
    if place.classes and (found.several or found.classifier is not None):
        classes = len(found.need_classifier().classes)
        if classes != place.classes:  # twice as many would pass for two templates of each
            raise ShapeMismatch(f"{name}: has a context for each of {place.classes} classes, and there are {classes}")
    require_text_room(found.text, sum(place.split(shape[0])))


def _require_columns(found: Towers, columns: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
    tower = found.need_vision()
    for name, layer in columns.items():
        _require_width(name, shapes[name], tower.width, f"the image embeddings of {type(found.model).__name__}")
        if layer >= len(tower.layers):
            raise ShapeMismatch(f"{name}: the vision tower has {len(tower.layers)} layers; it was made for another")
    if 0 not in columns.values() or len({shapes[name][0] for name in columns}) > 1:
        raise ShapeMismatch(
            f"{next(iter(columns))}: visual vectors must begin at layer 0, with as many at every later layer; found "
            + ", ".join(f"{shapes[name][0]} at {layer}" for name, layer in sorted(columns.items(), key=lambda c: c[1]))
        )


def _require_width(name: str, shape: tuple[int, ...], width: int, of: str) -> None:
    if len(shape) != 2:
        raise ShapeMismatch(f"{name}: must be a matrix, a row for each vector; found {shape}")
    if shape[1] != width:
        raise ShapeMismatch(f"{name}: has {shape[1]} features, and {of} have {width}; it was made for another model")


def _bundle(found: Towers, prompt: TowerPrompt) -> TowerBundle:
    """Return the bundle on a model, with the hooks that a prompt needs put there now where they are not."""
    held = found.text.core.__dict__.get(found.text.call)
    if isinstance(held, ContextForward):
        bundle = held.bundle
    elif getattr(held, "is_dtheta_term", False):
        raise UnsupportedLayer(
            f"a prompt is on the text tower of {type(found.model).__name__} alone; detach it before one of the whole "
            "model is attached"
        )
    else:
        bundle = TowerBundle()
        forward = ContextForward(found.text, bundle)
        found.text.core.__dict__[found.text.call] = forward
        bundle.undo.append(forward.remove)
    placed = [getattr(undo, "__self__", None) for undo in bundle.undo]
    if prompt.columns and not any(isinstance(owner, ColumnHooks) for owner in placed):
        bundle.undo.append(ColumnHooks(found.need_vision(), bundle).remove)
    if prompt.conditional and not isinstance(found.need_classifier().__dict__.get("forward"), ConditionalForward):
        bundle.undo.append(ConditionalForward(found, bundle).remove)
    return bundle
