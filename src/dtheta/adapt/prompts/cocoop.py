"""CoCoOp: CoOp whose context a small network moves by the features of the image; see conditional.py.

Zhou et al. 2022, arXiv 2203.05557. The text tower runs for every image: C texts an image, where
CoOp has C in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.adapt.prompts.image_names import META, Position
from dtheta.adapt.prompts.method import check_counts
from dtheta.adapt.prompts.tower_method import TowerMethod, context, place_of
from dtheta.adapt.prompts.towers import Towers, require_text_room
from dtheta.core.seeds import generator, uniform


@dataclass(frozen=True)
class CoCoOp(TowerMethod):
    """Conditional context optimization, on an ImageTextClassifier.

    Attributes:
        length: n, vectors of the context.
        position: Where the name stands; see ``CoOp``.
        ids: Token ids of a text whose embeddings the vectors start from, such as "a photo of a"; see ``CoOp``.
    """

    length: int = 4
    position: Position = "end"
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = (
        "CoOp whose vectors move with the image, by a small network (classifiers of images by text)"
    )
    paper: ClassVar[str] = "2203.05557"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1)

    def check(self, found: Towers) -> None:
        """Raise unless there is a classifier, which has the features of an image before the texts are read."""
        found.need_classifier()
        require_text_room(found.text, self.length)

    def vectors(self, found: Towers, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the context, and the network as torch draws linear layers."""
        name = place_of(found, self.position, per_class=False).name
        made = {name: context(found.text, self.length, 0, self.ids, seed, "CoCoOp", dtype)}
        joint, width = found.joint, found.text.width
        hidden = max(1, joint // 16)
        for part, out, into in (("down", hidden, joint), ("up", width, hidden)):
            for kind, shape in (("weight", (out, into)), ("bias", (out,))):
                bound = 1 / math.sqrt(into)
                drawn = uniform(shape, -bound, bound, generator(seed, f"CoCoOp/{part}.{kind}"))
                made[f"{META}{part}.{kind}"] = drawn.to(dtype)
        return made
