"""UPT: prompts of text and image, made of one another by a small transformer.

    [U ; V_0 ; ... ; V_(L-1)] = mixer([U' ; V'_0 ; ... ; V'_(L-1)])        see mixer.py

Zang et al. 2022, arXiv 2210.07225, with MVLPT's sizes. Most of what trains are the mixer's maps: 566,400 weights on a
ViT-B/16, of which 38,912 are vectors. ``adapter.folded()`` returns the vectors that come out, without the mixer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.adapt.prompts.image_names import Position, visual_name
from dtheta.adapt.prompts.method import check_counts
from dtheta.adapt.prompts.mixer import drawn_mixer
from dtheta.adapt.prompts.tower_method import TowerMethod, columns, context, place_of
from dtheta.adapt.prompts.towers import Towers, require_text_room


@dataclass(frozen=True)
class UPT(TowerMethod):
    """Unified prompt tuning.

    Attributes:
        length: n, vectors of the context, and vectors at a layer of the vision tower.
        width: w, features of the mixer.
        position: Where the name stands; see ``CoOp``.
        per_class: Whether every class has a context of its own; see ``CoOp``.
        deep: Whether every layer has vectors of its own; see ``VPT``.
        ids: Token ids of a text whose embeddings the context enters the mixer as; drawn numbers if None.
    """

    length: int = 4
    width: int = 128
    position: Position = "middle"
    per_class: bool = False
    deep: bool = True
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = (
        "a context and visual vectors, made of one another by a small transformer (image-text models)"
    )
    paper: ClassVar[str] = "2210.07225"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1, width=1)

    def check(self, found: Towers) -> None:
        """Raise unless both towers have a place."""
        found.need_vision()
        require_text_room(found.text, self.length)

    def vectors(self, found: Towers, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the vectors that enter the mixer, and its weights."""
        tower, place = found.need_vision(), place_of(found, self.position, self.per_class, mixed=True)
        text = context(found.text, self.length, place.classes, self.ids, seed, "UPT", dtype)
        made = columns(tower, self.length, len(tower.layers) if self.deep else 1, seed, "UPT", dtype)
        visual = {visual_name(layer, mixed=True): values for layer, values in enumerate(made)}
        return {place.name: text, **visual, **drawn_mixer(self.width, found.text.width, tower.width, seed, dtype)}
