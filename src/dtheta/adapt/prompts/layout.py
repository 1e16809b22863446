"""Layout: where virtual tokens stand among the columns of a batch.

    given      pad pad  a  b  c          at = number of columns before the virtual ones: the padding on the left,
    widened    pad pad  P1 P2 a  b  c         and [CLS] where that stays first

Padding on the left stays outermost, so that nothing but the order of real tokens matters to positions by mask, to
relative positions and to windows of attention.

Shape legend: B texts, T columns, m virtual tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROUTING = "router_logits"  # of mixtures of experts: one row a token, (B (T + m), experts), beside the text's own mask


@dataclass(frozen=True)
class Layout:
    """Widens tensors of a batch by the virtual tokens, and cuts them out again.

    Attributes:
        columns: T.
        virtual: m.
        at: Columns before the virtual ones, the same for all texts or one number for each (B, 1).
    """

    columns: int
    virtual: int
    at: int | Tensor

    @classmethod
    def of(cls, mask: Tensor | None, columns: int, virtual: int, after: int = 0) -> Layout:
        """Return the layout for a mask (B, T), with ``after`` real tokens before the virtual ones."""
        if mask is None or bool((mask[:, :1] != 0).all()):
            return cls(columns, virtual, min(after, columns))
        return cls(columns, virtual, (mask != 0).long().argmax(1, keepdim=True) + after)

    @property
    def own(self) -> int | Tensor:
        """Virtual tokens of each text, one number for all."""
        return self.virtual

    def virtual_mask(self, mask: Tensor) -> Tensor:
        """Return the mask (B, m) of the virtual tokens beside the mask of a text: all are real."""
        return mask.new_ones(mask.shape[0], self.virtual)

    def widen(self, text: Tensor, virtual: Tensor) -> Tensor:
        """Return text (B, T, ...) with virtual (B, m, ...) put in."""
        if isinstance(self.at, int):
            return torch.cat([text[:, : self.at], virtual, text[:, self.at :]], 1)
        column = torch.arange(self.columns + self.virtual, device=text.device)[None]
        own = (column >= self.at) & (column < self.at + self.virtual)
        source = torch.where(column < self.at, column + self.virtual, torch.where(own, column - self.at, column))
        return taken(torch.cat([virtual, text], 1), source)

    def cut(self, wide: Tensor) -> Tensor:
        """Return the columns (B, T, ...) of the text."""
        if isinstance(self.at, int):
            if self.at == 0:
                return wide[:, self.virtual :]
            return torch.cat([wide[:, : self.at], wide[:, self.at + self.virtual :]], 1)
        column = torch.arange(self.columns, device=wide.device)[None]
        return taken(wide, torch.where(column < self.at, column, column + self.virtual))

    def cut_output(self, output: Any) -> Any:
        """Return a model's output without the virtual columns of its states (B, T + m, features) and of its routing."""
        if isinstance(output, Tensor):
            states = output.ndim == 3 and output.shape[1] == self.columns + self.virtual
            return self.cut(output) if states else output
        if isinstance(output, tuple):
            return tuple(self.cut_output(part) for part in output)
        for name, value in output.items() if hasattr(output, "items") else ():
            if name == _ROUTING and isinstance(value, tuple):
                output[name] = tuple(self._cut_tokens(part) for part in value)
            elif isinstance(value, (Tensor, tuple)):
                output[name] = self.cut_output(value)
        return output

    def _cut_tokens(self, wide: Tensor) -> Tensor:
        """Return the rows (B T, ...) of the text's tokens, of one row a token."""
        columns = self.columns + self.virtual
        if wide.ndim != 2 or wide.shape[0] % columns:
            return self.cut_output(wide)
        return self.cut(wide.unflatten(0, (-1, columns))).flatten(0, 1)


def taken(wide: Tensor, columns: Tensor) -> Tensor:
    """Return columns (B, K) of a tensor (B, N, ...)."""
    index = columns.reshape(*columns.shape, *[1] * (wide.ndim - 2)).expand(*columns.shape, *wide.shape[2:])
    return wide.gather(1, index)


def order(mask: Tensor) -> Tensor:
    """Return, at every column of a mask (B, T), the number of real tokens before it; padding on the left gets 0."""
    return ((mask != 0).long().cumsum(1) - 1).clamp(min=0)
