"""Replaced MLPs on a model: the tensors of a delta stand in for MLPs, and train.

The tensors and the function that they make are in ``core.replaced``, the way a model runs with them in
``core.replaced_forward``; ``dt.replace_mlps`` makes such deltas. An MLP is there or replaced: halfway there is nothing
that tensors could say, so the weight of the adapter is 1, or 0 for the model as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dtheta.adapt.prompts.sources import restored as restored_vectors
from dtheta.adapt.term import Term
from dtheta.core.change import Change, New
from dtheta.core.mlps import Mlp, find_mlps
from dtheta.core.replaced import SEAL, Shape, Surrogate, replaced_part, whole
from dtheta.core.replaced_forward import put_on, take_off
from dtheta.errors import ConfigError, UnknownParameter, did_you_mean


class Constant(Term):
    """A new vector that does not train."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def matrix(self) -> Tensor:
        """Return the vector."""
        return self.values

    def change(self) -> Change:
        """Return a copy of the vector."""
        return New(self.values.detach().clone())


def restored(name: str, change: Change) -> Term:
    """Return the term of one tensor of a replaced MLP, which trains on from where it is."""
    part = replaced_part(name)
    return Constant(change.dense().clone()) if part and part[1] == SEAL else restored_vectors(change)


class Replaced:
    """What stands in for one MLP: the terms of one adapter, and how much they count just now (0 or 1)."""

    def __init__(
        self,
        surrogate: Surrogate,
        terms: Mapping[str, Term],
        names: Mapping[str, str],
        weight: Callable[[], float],
    ) -> None:
        self.surrogate = surrogate
        self.terms = terms
        self.names = names  # of the terms, by part
        self.weight = weight

    def active(self) -> bool:
        """Tell whether it stands in.

        Raises:
            ConfigError: For a weight between.
        """
        weight = self.weight()
        if weight not in (0.0, 1.0):
            raise ConfigError(
                f"weight={weight:g}, and an MLP is replaced or it is not: weight 1, or 0 for the model as it was"
            )
        return weight == 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Return y (..., D) for x (..., d)."""
        return self.surrogate(x, {part: self.terms[name].matrix() for part, name in self.names.items()})


class ReplacedLink:
    """The replaced MLPs of one adapter on one model, until they are taken away."""

    def __init__(self) -> None:
        self.placed: list[tuple[Mlp, Replaced]] = []
        self.beside: tuple[str, ...] = ()  # the names of the tensors of the MLPs that are replaced

    def remove(self) -> None:
        """Give the modules their own forwards back."""
        while self.placed:
            take_off(*self.placed.pop())


def connect(model: nn.Module, terms: Mapping[str, Term], weight: Callable[[], float]) -> ReplacedLink:
    """Let the tensors of replaced MLPs stand in for those of a model.

    Args:
        model: Any module.
        terms: The tensors by name.
        weight: How much they count just now.

    Raises:
        UnknownParameter: If the model has no such MLP.
        ShapeMismatch: If the tensors do not fit it, or some are missing.
        UnsupportedLayer: If an MLP is replaced already or adapted, or the tensors are of a sum of deltas.
        ConfigError: For a weight other than 0 and 1.
    """
    mlps = {mlp.name: mlp for mlp in find_mlps(model)}
    link = ReplacedLink()
    try:
        for name, parts in _grouped(terms).items():
            if name not in mlps:
                raise UnknownParameter(f"the delta replaces the MLP {name!r}, which is none{did_you_mean(name, mlps)}")
            _place(link, mlps[name], parts, terms, weight)
    except Exception:
        link.remove()
        raise
    link.beside = tuple(dict.fromkeys(tensor for mlp, _ in link.placed for tensor in mlp.parameters))
    return link


def _grouped(terms: Mapping[str, Term]) -> dict[str, dict[str, str]]:
    """Return the names of tensors by MLP and part."""
    found: dict[str, dict[str, str]] = {}
    for name in terms:
        place = replaced_part(name)
        assert place is not None, "grafts are told apart by their names"
        found.setdefault(place[0], {})[place[1]] = name
    return found


def _place(
    link: ReplacedLink, mlp: Mlp, parts: Mapping[str, str], terms: Mapping[str, Term], weight: Callable[[], float]
) -> None:
    surrogate = Surrogate(mlp, {part: _shape(terms[name]) for part, name in parts.items()})
    whole(parts[SEAL], terms[parts[SEAL]].matrix())
    for name in parts.values():
        terms[name].to(mlp.up.weight.device)  # type: ignore[arg-type]
    source = Replaced(surrogate, terms, {part: name for part, name in parts.items() if part != SEAL}, weight)
    source.active()
    put_on(mlp, source)
    link.placed.append((mlp, source))


def _shape(term: Term) -> Shape:
    with torch.no_grad():
        return tuple(term.matrix().shape)
