"""Source: a term where it acts, and how much it counts just now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dtheta.adapt.term import Term
from dtheta.core.selection import Window


@dataclass(frozen=True, eq=False)
class Source:
    """A term, its window, and the weight with which its adapter counts just now (0 when off)."""

    term: Term
    window: Window | None
    weight: Callable[[], float]
