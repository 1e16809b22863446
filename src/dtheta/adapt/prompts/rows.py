"""Rows: the bundle of a batch in which every text has a prompt of its own, gathered from a bank.

    virtual tokens of row i     T[e(i)]          T (E, m, d), the shorter ones filled up by padding; see uneven.py
    offsets of row i            those of e(i)    one call for all rows of a prompt

Shape legend: B texts, T columns, d features, E prompts, m virtual tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.prompts.bundle import Bundle, Place, Prompt
from dtheta.adapt.term import Term
from dtheta.errors import ConfigError


def always() -> float:
    """Return how much a prompt of a bank counts."""
    return 1.0


class RowBundle(Bundle):
    """Prompts of which each row has one.

    Args:
        names: Of the prompt of each row; None for none.
        terms: Vectors of each prompt, by its name.
    """

    def __init__(self, names: Sequence[str | None], terms: Mapping[str, Mapping[str, Term]]) -> None:
        used = list(dict.fromkeys(name for name in names if name is not None))
        super().__init__([Prompt(terms[name], always) for name in used], shut=True)
        self.parts = [Bundle([prompt]) for prompt in self.prompts] + [Bundle()]  # the last one of rows without
        self.row = torch.tensor([len(used) if name is None else used.index(name) for name in names])
        self.sizes = torch.tensor([part.virtual for part in self.parts])

    @property
    def works(self) -> bool:
        """True: rows without a prompt get positions by mask as the others do, whichever stand beside them."""
        return True

    @property
    def virtual(self) -> int:
        """Virtual tokens of the longest prompt, m."""
        return int(self.sizes.max())

    def rows(self, batch: int, expanded: bool = False) -> Tensor:
        """Return the number of the prompt of each text (B,).

        Raises:
            ConfigError: If the batch has another number of texts than prompts were named for.
        """
        copies, rest = divmod(batch, len(self.row))
        if rest or copies < 1 or (copies > 1 and not expanded):
            raise ConfigError(
                f"the batch has {batch} texts, and prompts were named for {len(self.row)}; name one a row"
            )
        return self.row.repeat_interleave(copies)  # beams of a text stand together

    def lengths(self, batch: int, expanded: bool = False) -> Tensor | None:
        """Return the virtual tokens of each text (B, 1); None where all have as many."""
        found = self.sizes[self.rows(batch, expanded)]
        return None if bool((found == self.virtual).all()) else found[:, None]

    def tokens(self, batch: int, like: Tensor) -> Tensor:
        """Return the virtual tokens (B, m, d), zeros where a prompt is shorter."""
        each = [part.tokens(1, like)[0] for part in self.parts]
        bank = torch.stack([F.pad(tokens, (0, 0, 0, self.virtual - len(tokens))) for tokens in each])
        return bank[self.rows(batch).to(like.device)]

    def displaced(self, x: Tensor, place: Place, expanded: bool = False) -> Tensor:
        """Return embeddings (B, T, d) of the text, displaced by the offsets of each row's own prompt."""
        row = self.rows(len(x), expanded).to(x.device)
        for number, part in enumerate(self.parts):
            if part.displaces and len(mine := (row == number).nonzero().flatten()):
                x = x.index_copy(0, mine, part.displaced(x[mine], place.of_rows(mine)))
        return x
