"""What the methods of inserted networks share: where they stand, and that no parameter of the model is moved."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from dtheta.adapt.inserted.places import Place, Placement, places
from dtheta.adapt.method import Method, check_weight, working_dtype
from dtheta.adapt.term import Term


class InsertedMethod(Method):
    """A method whose networks stand behind the last layers of attention and MLPs, or behind selected linear layers."""

    new_vectors: ClassVar[bool] = True
    placement: Placement

    def require_selectable(self, select: str | None) -> None:
        """Take any selection: it says which linear layers the networks stand behind."""

    def require(self, model: nn.Module, select: str | None = None) -> None:
        """Raise unless a model has places for networks.

        Raises:
            UnsupportedLayer, ConfigError, UnknownParameter: As ``places``.
        """
        places(model, self.placement, select)

    def grafts(self, model: nn.Module, seed: int, select: str | None = None) -> dict[str, Term]:
        """Return the vectors at their start, by name; what they add is zero.

        Raises:
            UnsupportedLayer, ConfigError, UnknownParameter: As ``places``.
        """
        made: dict[str, Term] = {}
        with torch.no_grad():
            for place in places(model, self.placement, select):
                check_weight(place.site, finite=False)
                dtype = working_dtype(place.site.tensor)
                made |= {name: term.to(dtype) for name, term in self.vectors(place, seed).items()}
        return made

    def vectors(self, place: Place, seed: int) -> dict[str, Term]:
        """Return the vectors of one network at their start, by name; float32, as they are drawn."""
        raise NotImplementedError
