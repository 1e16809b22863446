"""Full fine-tuning as a delta: the displacement itself trains, in float32, beside a base that stays as it is.

W + D,   D from 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dtheta.adapt.method import Method, check_weight, working_dtype
from dtheta.adapt.term import DenseTerm
from dtheta.core.selection import Site


@dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning of the selected parameters; every one of the model's by default."""

    default_select: ClassVar[str | None] = "@all"
    matrices: ClassVar[bool] = False
    summary: ClassVar[str] = "trains every selected weight"

    def term(self, site: Site, seed: int) -> DenseTerm:
        """Return a displacement of zeros."""
        check_weight(site)
        return DenseTerm(torch.zeros(site.shape, dtype=working_dtype(site.tensor), device=site.tensor.device))
