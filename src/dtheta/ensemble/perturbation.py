"""Perturbations of the start: the interface, and what one is given.

    member's first state = state + sign * vector

A perturbation gives the vectors of all rows of a block at once, each drawn by its own key: (seed, what, start time,
parameters) and the draw. One that gives states and no vectors (a lagged ensemble) overrides ``states``.

Shape legend: B rows of a block, ... the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.core.seeds import generator, normal
from dtheta.ensemble.members import Member
from dtheta.errors import ConfigError, ShapeMismatch

#: One step of the states (B, ...) of a block, which are valid so many steps after the start (before it: negative).
Advance: TypeAlias = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Start:
    """From where an ensemble starts.

    Attributes:
        state: the analysis (...), valid at the start time.
        past: analyses (K, ...) before it, one step apart, the oldest first.
        label: the start time, as it enters the keys of draws.
    """

    state: Tensor
    past: Tensor
    label: str
    _kept: dict[str, tuple[Hashable, Any]] = field(default_factory=dict, repr=False)

    def before(self, steps: int) -> Tensor:
        """Return the analysis (...) so many steps before the start; 0 is the start itself."""
        return self.past[len(self.past) - steps] if steps else self.state

    def once(self, name: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives, made anew only where the key is another one than the last time."""
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = (key, make())
        return self._kept[name][1]


@dataclass(frozen=True)
class Rows:
    """Who is perturbed: the members in the rows of a block."""

    members: tuple[Member, ...]
    seed: int
    label: str

    def __len__(self) -> int:
        return len(self.members)

    def generator(self, row: int, name: str) -> torch.Generator:
        """Return a fresh generator for a draw of the member in a row; its sign does not enter."""
        member = self.members[row]
        return generator(self.seed, f"ensemble/{name}/{self.label}/{member.parameters}", member.draw)

    @property
    def draws(self) -> tuple[tuple[int, int], ...]:
        """What the vectors depend on: parameters and draw of every row."""
        return tuple((member.parameters, member.draw) for member in self.members)

    def signs(self, like: Tensor) -> Tensor:
        """Return the signs (B, 1, ...), to be multiplied with vectors (B, ...)."""
        signs = torch.tensor([member.sign for member in self.members]).to(like.device, like.dtype)
        return signs.reshape(-1, *[1] * (like.ndim - 1))


class Perturbation(ABC):
    """Perturbation of the start."""

    #: How many analyses before the start it needs.
    past: int = 0

    @abstractmethod
    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the perturbations (B, ...) of positive sign."""

    def states(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the first states (B, ...) of members."""
        vectors = self.vectors(start, rows, advance)
        return start.state + rows.signs(vectors) * vectors


def draw_normal(rows: Rows, name: str, like: Tensor) -> Tensor:
    """Return independent normal numbers (B, ...) of the shape of one state, every row by its own key."""
    drawn = [normal(like.shape, 1.0, rows.generator(row, name)) for row in range(len(rows))]
    return torch.stack(drawn).to(like.device, like.dtype)


def amplitude_of(amplitude: float | Sequence[float] | Tensor, state: Tensor, what: str = "amplitude") -> Tensor:
    """Return an amplitude that multiplies states: a number, one a channel (the first axis), or one an element.

    Raises:
        ShapeMismatch: if it fits neither.
        ConfigError: if it is negative, or not finite.
    """
    found = torch.as_tensor(amplitude).to(state.device, state.dtype)
    if found.ndim == 1 and state.ndim > 1 and len(found) == len(state):
        found = found.reshape(-1, *[1] * (state.ndim - 1))
    try:  # several numbers in a row that are not those of channels would become those of the last axis
        listed = found.ndim == 1 and state.ndim > 1 and len(found) > 1
        fits = not listed and torch.broadcast_shapes(found.shape, state.shape) == state.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeMismatch(
            f"{what} has the shape {tuple(found.shape)} and a state {tuple(state.shape)}; expected one number, one for "
            "each channel (the first axis of a state), or one for each element"
        )
    if not bool(((found >= 0) & torch.isfinite(found)).all()):
        raise ConfigError(f"{what} holds {float(found.min())} to {float(found.max())}; expected numbers, 0 or more")
    return found
