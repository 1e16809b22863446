"""Wiring of inserted networks: a forward hook behind a module, put on with its first network, taken off with its last.

A hook of torch's and not a forward of ours, as terms have it, for two reasons: what a term adds to a layer comes before
what stands behind that layer, in whatever order they were attached; and torch's own transformer layers leave their fast
path, which would go past everything, where there is a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.inserted.bottleneck import Bottleneck
from dtheta.adapt.inserted.names import Address, address
from dtheta.adapt.inserted.network import Network
from dtheta.adapt.inserted.places import Place, all_places
from dtheta.adapt.inserted.random_features import WeighedFeatures
from dtheta.adapt.prompts.bundle import weighed
from dtheta.adapt.term import Term
from dtheta.core.replaced_forward import ReplacedForward
from dtheta.core.tensors import modules
from dtheta.errors import UnknownParameter, UnsupportedLayer, did_you_mean

_KINDS: Mapping[str, Callable[[str], Network]] = {"snnk": WeighedFeatures, "houlsby": Bottleneck}


@dataclass(frozen=True, eq=False)
class Inserted:
    """One network of one adapter.

    Attributes:
        network: The function.
        where: Which network stands where.
        terms: The adapter's new vectors by name, read anew each time.
        parts: Those of this network, as (part, name).
        weight: How much they count just now (0 when off).
    """

    network: Network
    where: Address
    terms: Mapping[str, Term]
    parts: tuple[tuple[str, str], ...]
    weight: Callable[[], float]

    def __call__(self, h: Tensor, weight: float) -> Tensor:
        """Return what is added to h, in its dtype."""
        parts = {part: weighed(self.terms[name].matrix(), weight) for part, name in self.parts}
        like = next(iter(parts.values()))
        x = h if torch.is_autocast_enabled(h.device.type) else h.to(like.dtype)
        return self.network(x, parts).to(h.dtype)


class OutputHook:
    """The forward hook of a module with networks behind it; they belong to their adapters."""

    is_dtheta_term = True

    def __init__(self) -> None:
        self.sources: list[Inserted] = []

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        """Return the module's output with what every active network makes of it added."""
        active = [(source, w) for source in self.sources if (w := source.weight()) != 0.0]
        if not active:
            return output
        if not isinstance(output, Tensor):
            raise UnsupportedLayer(
                f"{active[0][0].where.place}: a network stands behind this {type(module).__name__}, which returns "
                f"{type(output).__name__}, no tensor; stand behind a linear layer in it"
            )
        result = output
        for source, w in active:
            result = result + source(output, w)
        return result


class InsertedLink:
    """The networks of one adapter on one model, until they are taken away."""

    def __init__(self) -> None:
        self.placed: list[tuple[nn.Module, Inserted]] = []
        self.beside: tuple[str, ...] = ()  # the names of the tensors beside which they stand

    def add(self, module: nn.Module, source: Inserted) -> None:
        """Put a network behind a module."""
        held = next((hook for hook in module._forward_hooks.values() if isinstance(hook, OutputHook)), None)
        if held is None:
            held = OutputHook()
            module.register_forward_hook(held)
        held.sources.append(source)
        self.placed.append((module, source))

    def remove(self) -> None:
        """Take the networks away; the last one leaves the module as it was before the first."""
        while self.placed:
            module, source = self.placed.pop()
            for key, hook in list(module._forward_hooks.items()):
                if isinstance(hook, OutputHook) and source in hook.sources:
                    hook.sources.remove(source)
                    if not hook.sources:
                        del module._forward_hooks[key]


def connect(model: nn.Module, terms: Mapping[str, Term], weight: Callable[[], float]) -> InsertedLink:
    """Put the networks that some vectors are of on a model.

    Args:
        model: Any module.
        terms: The vectors by name.
        weight: How much they count just now.

    Raises:
        UnknownParameter: If the model lacks a module that they stand behind.
        ShapeMismatch: If they do not fit its output, or parts are missing.
        FormatError, ConfigError: If a name tells no random features, or such as cannot be.
        UnsupportedLayer: If a name tells a function that is not known, or the module is in a replaced MLP.
    """
    link, known, table = InsertedLink(), all_places(model), dict(modules(model))
    network = cache(lambda kind, code: _KINDS[kind](code))  # alike ones share what they draw
    try:
        for where, parts in _grouped(terms).items():
            if where.place not in known:
                near = did_you_mean(where.place, known)
                raise UnknownParameter(f"a network stands behind {where.place!r}, no linear layer of this model{near}")
            _require_read(where.place, table)
            source = Inserted(network(where.kind, where.code), where, terms, tuple(parts), weight)
            _insert(link, known[where.place], source)
    except Exception:
        link.remove()
        raise
    link.beside = tuple(dict.fromkeys(known[source.where.place].site.name for _, source in link.placed))
    return link


def _grouped(terms: Mapping[str, Term]) -> dict[Address, list[tuple[str, str]]]:
    """Return the parts and names of vectors by network."""
    found: dict[Address, list[tuple[str, str]]] = {}
    for name in terms:
        where, part = address(name) or (None, "")
        assert where is not None, "grafts are told apart by their names"
        found.setdefault(where, []).append((part, name))
    return found


def _require_read(path: str, table: Mapping[str, nn.Module]) -> None:
    """Raise if the forward of a module around a place is replaced, so that nothing comes to the place."""
    parts = path.split(".")
    for around in (".".join(parts[:i]) for i in range(len(parts))):
        if around != path and isinstance(table[around].__dict__.get("forward"), ReplacedForward):
            raise UnsupportedLayer(
                f"{path}: the MLP {around!r} around it is replaced, so nothing would run there; stand elsewhere by "
                "placement='attention' or select='...', or detach that first"
            )


@torch.no_grad()
def _insert(link: InsertedLink, place: Place, source: Inserted) -> None:
    """Put a network behind a module, if it fits its output."""
    terms = {part: source.terms[name] for part, name in source.parts}
    shapes = {part: tuple(term.matrix().shape) for part, term in terms.items()}
    source.network.check(source.where.name(""), place.width, shapes)
    for term in terms.values():
        term.to(place.site.tensor.device)
    source(next(iter(terms.values())).matrix().new_empty(0, place.width), 1.0)  # what is drawn is drawn now
    link.add(place.module, source)
