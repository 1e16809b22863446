"""VPT: vectors beside the patches of an image, at the first layer or at all.

    input of layer i = [CLS ; V_i ; patches]      V_i (n, d_v)

Jia et al. 2022, arXiv 2203.12119, in a CLIP as MVLPT has it (Shen et al. 2022, arXiv 2211.11720).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.adapt.prompts.image_names import visual_name
from dtheta.adapt.prompts.method import check_counts
from dtheta.adapt.prompts.tower_method import TowerMethod, columns
from dtheta.adapt.prompts.towers import Towers


@dataclass(frozen=True)
class VPT(TowerMethod):
    """Visual prompt tuning.

    Attributes:
        length: n, vectors at a layer.
        deep: Whether every layer has vectors of its own; only the first if False.
    """

    length: int = 16
    deep: bool = True

    summary: ClassVar[str] = "vectors beside the patches, at every layer of a vision transformer (image-text models)"
    paper: ClassVar[str] = "2203.12119"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1)

    def check(self, found: Towers) -> None:
        """Raise unless the vision tower is a transformer."""
        found.need_vision()

    def vectors(self, found: Towers, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the vectors by layer."""
        tower = found.need_vision()
        made = columns(tower, self.length, len(tower.layers) if self.deep else 1, seed, "VPT", dtype)
        return {visual_name(layer): values for layer, values in enumerate(made)}
