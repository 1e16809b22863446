"""Blocks: what a network is called with, always of one shape, so that a member's bits do not depend on who else runs.

The bits of a row do depend on how many rows are multiplied at once: measured on a CPU, a linear layer of 1024 to 1000
gives other last bits for 1, 2, 3, 5, 7 or 8 rows than for 64, since matrix libraries choose their kernel by size. They
do not depend on what the other rows hold. So every call has the same number of rows, short ones are filled up with
copies, and, lest another library treats the last rows otherwise, a member always sits in the same row:

    row of a member = draw modulo rows          network of a stack = parameters modulo stack

Where several networks are stacked, a block holds ``stack`` x ``rows`` states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dtheta.ensemble.members import Member


@dataclass(frozen=True)
class Block:
    """Members that are computed in one call.

    Attributes:
        networks: the parameter sets of the stack; one where networks are not stacked.
        members: who is computed in each row; in rows that nobody needs, the block's first member.
        places: (row, index of the member in the ensemble) of those that count.
    """

    networks: tuple[int, ...]
    members: tuple[Member, ...]
    places: tuple[tuple[int, int], ...]

    @cached_property
    def rows(self) -> Tensor:
        """The rows that count."""
        return torch.tensor([row for row, _ in self.places])

    @cached_property
    def index(self) -> Tensor:
        """Of the rows that count, the members' indices in the ensemble."""
        return torch.tensor([index for _, index in self.places])

    @cached_property
    def span(self) -> slice | None:
        """The members as a slice of the ensemble, where every row counts and they follow each other; else None."""
        first = self.places[0][1]
        in_order = self.places == tuple((row, first + row) for row in range(len(self.members)))
        return slice(first, first + len(self.members)) if in_order else None

    def take(self, x: Tensor) -> Tensor:
        """Return a copy of the states (B, ...) of all rows, out of those of the ensemble (M, ...)."""
        return x[self.sources.to(x.device)] if self.span is None else x[self.span].clone()

    def put(self, states: Tensor, x: Tensor) -> None:
        """Write the states (B, ...) of the rows that count to their members' places in ``x`` (M, ...)."""
        if self.span is None:
            x[self.index.to(x.device)] = states[self.rows.to(x.device)]
        else:
            x[self.span] = states

    @cached_property
    def sources(self) -> Tensor:
        """Of every row, the index of the member from which its state is taken."""
        held = dict(self.places)
        return torch.tensor([held.get(row, self.places[0][1]) for row in range(len(self.members))])


def blocks(members: Sequence[Member], rows: int, stack: int = 1) -> list[Block]:
    """Return the blocks that compute these members, those of one network after each other."""
    groups: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, member in enumerate(members):
        group, network = divmod(member.parameters, stack)
        groups[group][network * rows + member.draw % rows].append(index)
    found = []
    for group in sorted(groups):
        waiting = groups[group]
        for turn in range(max(map(len, waiting.values()))):
            places = [(row, queue[turn]) for row, queue in sorted(waiting.items()) if turn < len(queue)]
            found.append(_block(members, places, group * stack, rows, stack))
    return found


def _block(members: Sequence[Member], places: list[tuple[int, int]], first: int, rows: int, stack: int) -> Block:
    held = dict(places)
    stand_in = members[places[0][1]]
    used = {row // rows for row in held}
    networks = tuple(first + n if n in used else stand_in.parameters for n in range(stack))
    seated = tuple(members[held[row]] if row in held else stand_in for row in range(stack * rows))
    return Block(networks, seated, tuple(places))
