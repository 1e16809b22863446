"""Bundle: what all prompts on one model add up to at this moment.

Virtual tokens of several prompts stand one after another, in the order in which they were attached; their offsets add
up. A prompt whose adapter is disabled, or has weight 0, is not there at all.

Shape legend: B texts, T columns, d features, m virtual tokens in all, s rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.layout import order
from dtheta.adapt.prompts.names import INPUT, NETWORK, TOKEN_TABLE, OffsetRule, is_offset, offset_rule, prefix_place
from dtheta.adapt.prompts.sources import length_of
from dtheta.adapt.prompts.token_wise import network_offsets, table_offsets
from dtheta.adapt.term import Term
from dtheta.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Prompt:
    """The vectors of one adapter by name, and how much they count just now (0 when off)."""

    terms: Mapping[str, Term]
    weight: Callable[[], float]


@dataclass(eq=False)
class Bundle:
    """The prompts on one model, in the order in which they came."""

    prompts: list[Prompt] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)  # as each of them came: the wiring takes these off again
    shut: bool = False  # whether no other prompt may join them

    def active(self) -> list[tuple[Term, str, float]]:
        """Return the vectors that count, with their names and weights."""
        found = [(prompt, w) for prompt in self.prompts if (w := prompt.weight()) != 0.0]
        return [(term, name, w) for prompt, w in found for name, term in prompt.terms.items()]

    @property
    def works(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.active())

    @property
    def virtual(self) -> int:
        """Virtual tokens in all, m."""
        return sum(length_of(term) for term, name, _ in self.active() if name == INPUT)

    @property
    def prefixed(self) -> int:
        """Entries that stand in the cache before everything else."""
        return sum(length_of(term) for term, name, _ in self.active() if prefix_place(name) == (0, "key"))

    def offset_rules(self) -> list[OffsetRule]:
        """Return the rules of all tables of offsets."""
        return [rule for _, name, _ in self.active() if (rule := offset_rule(name)) is not None]

    @property
    def displaces(self) -> bool:
        """Whether a text's embeddings are displaced."""
        return any(is_offset(name) for _, name, _ in self.active())

    def lengths(self, batch: int, expanded: bool = False) -> Tensor | None:
        """Return the virtual tokens of each text (B, 1); None where all have as many, as here, but not in rows.py."""
        return None

    def tokens(self, batch: int, like: Tensor) -> Tensor:
        """Return the virtual tokens (B, m, d) on the device and in the dtype of embeddings."""
        found = [weighed(term.matrix(), w) for term, name, w in self.active() if name == INPUT]
        if not found:
            return like.new_zeros(batch, 0, like.shape[-1])
        return torch.cat(found).to(like.device, like.dtype).expand(batch, -1, -1)

    def displaced(self, x: Tensor, place: Place, expanded: bool = False) -> Tensor:
        """Return embeddings (B, T, d) of the text with the offsets of their tokens.

        Args:
            x: The embeddings.
            place: Which tokens they are of.
            expanded: Whether texts may have become several rows, one after another, as beams do.
        """
        offsets = [o for prompt in self.prompts if (w := prompt.weight()) for o in _offsets(prompt.terms, w, x, place)]
        for offset in offsets:  # each is one of the text as it came
            x = x + offset.to(x.device, x.dtype)
        return x


@dataclass(frozen=True)
class Place:
    """Which tokens of their texts some embeddings are.

    Attributes:
        column: Column of each (T,).
        index: Number of real tokens before each (B or 1, T); the columns if None.
        mask: Which are real (B, T), or None for all; only these are held to a table's length.
        ids: Token ids (B, T); None where the text came as embeddings.
    """

    column: Tensor
    index: Tensor | None = None
    mask: Tensor | None = None
    ids: Tensor | None = None

    def of_rows(self, rows: Tensor) -> Place:
        """Return the place of some texts of the batch."""
        index = self.index if self.index is None or len(self.index) == 1 else self.index[rows]
        mask, ids = (None if t is None else t[rows] for t in (self.mask, self.ids))
        return Place(self.column, index, mask, ids)


def _offsets(terms: Mapping[str, Term], weight: float, x: Tensor, place: Place) -> Iterator[Tensor]:
    """Yield what the vectors of one adapter add to embeddings."""
    for name, term in terms.items():
        if (rule := offset_rule(name)) is not None:
            row = place.column[None] if rule.index == "column" or place.index is None else place.index
            yield weighed(_rows(term, row, rule, place.mask), weight)
        elif name == TOKEN_TABLE:
            yield weighed(table_offsets(place.ids, term.matrix()), weight)
    if NETWORK[0] in terms:
        yield network_offsets(x, {name: weighed(terms[name].matrix(), weight) for name in NETWORK})


def _rows(term: Term, row: Tensor, rule: OffsetRule, mask: Tensor | None) -> Tensor:
    """Return the rows of a table: one by one where they are few, else from the whole, which is made once a batch.

    Nothing is kept from call to call: a table costs s r d multiplications, far below one token's way through a model.
    """
    size = length_of(term)
    if rule.beyond == "error":
        _require_within(row if mask is None else row * (mask != 0), size)
    near = row.clamp(max=size - 1)
    found = term.rows(near) if row.numel() < size else term.matrix()[near]
    return found * (row < size)[..., None] if rule.beyond == "none" else found


def _require_within(row: Tensor, size: int) -> None:
    longest = int(row.max()) + 1
    if longest > size:
        raise ConfigError(
            f"a text has {longest} tokens and the table of offsets has {size}; cut texts there, train with more "
            "positions, or let longer texts pass by beyond='none' or 'last'"
        )


def weighed(values: Tensor, weight: float) -> Tensor:
    """Return a multiple."""
    return values if weight == 1.0 else values * weight


def real_order(mask: Tensor | None, positions: Tensor | None) -> Tensor | None:
    """Return the number of real tokens before each: by mask, else by the positions that were given."""
    return positions if mask is None else order(mask)
