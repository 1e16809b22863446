"""Layout of a batch whose texts have prompts of different lengths: the shorter ones leave padding.

    left      o o P1 a b | P1 P2 P3 c d      decoders, whose last column must be the last token of a text
    right     [CLS] P1 a b o o               others; padding (o) stays outermost, as that of the texts does

Shape legend: B texts, T columns, m virtual tokens of the longest prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.adapt.prompts.layout import Layout, taken


@dataclass(frozen=True)
class UnevenLayout(Layout):
    """A layout by which text i has ``lengths[i]`` virtual tokens of its own.

    Attributes:
        lengths: Virtual tokens of each (B, 1).
        left: Whether padding goes in front.
    """

    lengths: Tensor
    left: bool

    @property
    def own(self) -> Tensor:
        """Virtual tokens of each text (B, 1)."""
        return self.lengths

    def virtual_mask(self, mask: Tensor) -> Tensor:
        """Return the mask (B, m) of the virtual tokens: zero where a prompt is shorter."""
        return (torch.arange(self.virtual, device=mask.device) < self.own).to(mask.dtype)

    def widen(self, text: Tensor, virtual: Tensor) -> Tensor:
        """Return text (B, T, ...) with virtual (B, m, ...) put in; what is beyond a prompt's length becomes padding."""
        column = torch.arange(self.columns + self.virtual, device=text.device)[None] - self._lead
        inside, behind = (column >= self.at) & (column < self.at + self.own), column >= self.at + self.own
        source = torch.where(behind, column - self.own, column) + self.virtual
        source = torch.where(inside, column - self.at, source)
        source = torch.where(column < 0, column + self.virtual, source)  # padding in front: m columns end before 0
        source = torch.where(column >= self.columns + self.own, column - self.columns, source)
        rows = (t.expand(len(self.own), *t.shape[1:]) for t in (virtual, text))
        return taken(torch.cat(list(rows), 1), source)

    def cut(self, wide: Tensor) -> Tensor:
        """Return the columns (B, T, ...) of the text."""
        column = torch.arange(self.columns, device=wide.device)[None]
        return taken(wide, self._lead + torch.where(column < self.at, column, column + self.own))

    @property
    def _lead(self) -> Tensor:
        """Columns of padding in front (B, 1)."""
        return (self.virtual - self.own) * self.left
