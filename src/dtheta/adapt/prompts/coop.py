"""CoOp: the words around a class's name are vectors that train.

    text = SOS U[:n/2] name U[n/2:] EOS       U (n, d_t)

Zhou et al. 2022, arXiv 2109.01134, whose default has the name at the end; MVLPT's has it in the middle, as
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.adapt.prompts.image_names import Position
from dtheta.adapt.prompts.method import check_counts
from dtheta.adapt.prompts.tower_method import TowerMethod, context, place_of
from dtheta.adapt.prompts.towers import Towers, require_text_room


@dataclass(frozen=True)
class CoOp(TowerMethod):
    """Context optimization.

    Attributes:
        length: n, vectors of the context.
        position: Where the name stands: behind them ("end"), before ("front"), or amid them ("middle").
        per_class: Whether every class has a context of its own; on an ImageTextClassifier only.
        ids: Token ids of a text whose embeddings the vectors start from, over and over; drawn numbers if None.
    """

    length: int = 16
    position: Position = "middle"
    per_class: bool = False
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = "vectors in place of the words around a class's name (image-text models)"
    paper: ClassVar[str] = "2109.01134"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1)

    def check(self, found: Towers) -> None:
        """Raise unless the text tower has room."""
        require_text_room(found.text, self.length)

    def vectors(self, found: Towers, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the context."""
        place = place_of(found, self.position, self.per_class)
        return {place.name: context(found.text, self.length, place.classes, self.ids, seed, "CoOp", dtype)}
