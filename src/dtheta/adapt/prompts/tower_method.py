"""What the methods of prompts on image-text models share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dtheta.adapt.method import Method, working_dtype
from dtheta.adapt.prompts.image_names import Position, TextPlace
from dtheta.adapt.prompts.sources import Vectors
from dtheta.adapt.prompts.tower_wiring import require_fit
from dtheta.adapt.prompts.towers import TextTower, Towers, VisionTower, towers
from dtheta.adapt.term import Term
from dtheta.core.seeds import generator, normal, uniform
from dtheta.errors import ConfigError, UnsupportedLayer

_SPREAD = 0.02  # CoOp's, in units of a CLIP's token embeddings


class TowerMethod(Method):
    """A method whose vectors enter the towers of an image-text model."""

    new_vectors: ClassVar[bool] = True

    def require(self, model: nn.Module, select: str | None = None) -> None:
        """Raise unless a prompt of this method can enter a model.

        Raises:
            UnsupportedLayer: If the model is none that it can enter.
            ShapeMismatch: If it leaves no position for a name.
        """
        self.check(towers(model))

    def check(self, found: Towers) -> None:
        """Raise unless the method has a place in a model."""

    def grafts(self, model: nn.Module, seed: int, select: str | None = None) -> dict[str, Term]:
        """Return the vectors at their start, by name.

        Raises:
            UnsupportedLayer: If the model is none that they can enter.
            ShapeMismatch: If they leave no position for a name.
        """
        found = towers(model)
        self.check(found)
        weight: Any = found.text.embedding.weight
        if weight.is_meta:
            raise UnsupportedLayer("the token embedding is on the meta device and has no data; load it first")
        made = {name: Vectors(v.contiguous()) for name, v in self.vectors(found, seed, working_dtype(weight)).items()}
        require_fit(found, made)
        return dict(made)

    def vectors(self, found: Towers, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the vectors at their start, by name."""
        raise NotImplementedError


def place_of(found: Towers, position: Position, per_class: bool, mixed: bool = False) -> TextPlace:
    """Return where a context stands; of classes of their own as many as the classifier has."""
    return TextPlace(position, len(found.need_classifier().classes) if per_class else 0, mixed)


def context(
    tower: TextTower, length: int, classes: int, ids: tuple[int, ...] | None, seed: int, key: str, dtype: torch.dtype
) -> Tensor:
    """Return a context to start from (n, d_t) or (C n, d_t): N(0, 0.02^2), or the embeddings of ids over and over.

    Raises:
        ConfigError: If ids are none, or not in the vocabulary.
    """
    rows = length * (classes or 1)
    if ids is None:
        return (normal((rows, tower.width), 1.0, generator(seed, f"{key}/text")) * _SPREAD).to(dtype)
    weight: Tensor = tower.embedding.weight  # type: ignore[assignment]
    if not ids or min(ids) < 0 or max(ids) >= len(weight):
        raise ConfigError(f"ids must be token ids below {len(weight)}, at least one; found {ids!r:.80}")
    chosen = torch.tensor(ids)[torch.arange(length) % len(ids)].repeat(classes or 1)
    return tower.embedding(chosen.to(weight.device)).detach().to("cpu", dtype)


def columns(tower: VisionTower, length: int, layers: int, seed: int, key: str, dtype: torch.dtype) -> list[Tensor]:
    """Return visual vectors (n, d_v) by layer to start from: U(-v, v), v = sqrt(6 / (3 p^2 + d_v))."""
    bound = (6 / (3 * tower.patch**2 + tower.width)) ** 0.5
    drawn = [
        uniform((length, tower.width), -bound, bound, generator(seed, f"{key}/visual", layer))
        for layer in range(layers)
    ]
    return [values.to(dtype) for values in drawn]
