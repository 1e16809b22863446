"""BitFit: train the bias vectors and nothing else. Ben Zaken, Ravfogel and Goldberg 2021, arXiv 2106.10199."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtheta.adapt.full import Full


@dataclass(frozen=True)
class BitFit(Full):
    """Training of the biases."""

    default_select: ClassVar[str | None] = "@bias"
    summary: ClassVar[str] = "trains the bias vectors only"
    paper: ClassVar[str] = "2106.10199"
