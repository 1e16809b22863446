"""Grafts: vectors that the base does not have, by the names that say what they do.

prompt.*, prefix.*        beside the input of a text or image-text model        prompts/
MODULE.snnk.*, ...        behind a module                                       inserted/
MLP.replaced.*            in place of an MLP                                    replaced.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dtheta.adapt.inserted.names import is_inserted
from dtheta.adapt.inserted.wiring import InsertedLink
from dtheta.adapt.inserted.wiring import connect as connect_inserted
from dtheta.adapt.prompts.names import is_prompt
from dtheta.adapt.prompts.sources import restored as restored_vectors
from dtheta.adapt.prompts.tower_wiring import TowerLink
from dtheta.adapt.prompts.wiring import PromptLink
from dtheta.adapt.prompts.wiring import connect as connect_prompt
from dtheta.adapt.replaced import ReplacedLink
from dtheta.adapt.replaced import connect as connect_replaced
from dtheta.adapt.replaced import restored as restored_replaced
from dtheta.adapt.term import Term
from dtheta.core.change import Change
from dtheta.core.replaced import is_replaced

GraftLink = PromptLink | TowerLink | InsertedLink | ReplacedLink


def is_graft(name: str) -> bool:
    """Tell whether a name is that of a new vector that a model has a place for."""
    return is_replaced(name) or is_inserted(name) or is_prompt(name)


def restored(name: str, change: Change) -> Term:
    """Return the trainable term that goes on from a new vector."""
    return restored_replaced(name, change) if is_replaced(name) else restored_vectors(change)


def by_kind(grafts: Mapping[str, Term]) -> list[dict[str, Term]]:
    """Return new vectors apart by what puts them on a model."""
    groups: dict[Any, dict[str, Term]] = {_put(name): {} for name in sorted(grafts, key=is_replaced, reverse=True)}
    for name, term in grafts.items():
        groups[_put(name)][name] = term
    return list(groups.values())


def _put(name: str) -> Callable[..., GraftLink]:
    """Return what puts a new vector on a model; MLPs are replaced before anything is put behind them."""
    if is_replaced(name):
        return connect_replaced
    return connect_inserted if is_inserted(name) else connect_prompt


def connect(model: nn.Module, terms: Mapping[str, Term], weight: Callable[[], float]) -> GraftLink:
    """Put new vectors of one kind on a model.

    Raises:
        UnsupportedLayer, ShapeMismatch, UnknownParameter: If they have no place there, or do not fit.
    """
    return _put(next(iter(terms)))(model, terms, weight)
