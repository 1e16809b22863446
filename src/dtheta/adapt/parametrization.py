"""Terms added to a weight, W + w D, by torch's parametrization of the module that holds it.

torch gives a parametrized module a class of its own, on which the parameter is a property. Copies of the module share
that class, so a property that is taken off, or put on, for one of them would be so for all. Here a module leaves its
class as it is: it goes back to the plain one, or gets another class with the properties that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from dtheta.adapt.source import Source
from dtheta.adapt.stacked import StackedTerm, wider
from dtheta.core.change import matrix_shape
from dtheta.errors import ConfigError


class AdditiveParametrization(nn.Module):
    """Parametrization that adds terms to a weight; the terms belong to their adapters, not to this module."""

    is_dtheta_term = True

    def __init__(self, order: Sequence[str]) -> None:
        super().__init__()
        self.sources: list[Source] = []
        self.order = order  # of the module's parameters before anything was attached

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with every active term added, in the weight's dtype.

        Autocast rounds the weight where the module multiplies by it; here it would round what the module must get
        unrounded, such as the rows of an embedding.
        """
        active = [(source, w) for source in self.sources if (w := source.weight()) != 0.0]
        if not active:
            return weight
        if not torch.is_autocast_enabled(weight.device.type):
            return self._sum(weight, active)
        with torch.autocast(weight.device.type, enabled=False):
            return self._sum(weight, active)

    def _sum(self, weight: Tensor, active: Sequence[tuple[Source, float]]) -> Tensor:
        """Return weight plus terms, added in the wider of their dtypes and rounded once."""
        source, w = active[0]
        if len(active) == 1 and isinstance(source.term, StackedTerm) and source.term.shape == weight.shape:
            return source.term.added(weight, w)
        moved = [self._placed(source, w, matrix_shape(weight.shape)) for source, w in active]
        total = moved[0]
        for more in moved[1:]:
            total = total + more
        return (weight.to(wider(weight, total)) + total.reshape(weight.shape)).to(weight.dtype)

    @staticmethod
    def _placed(source: Source, w: float, shape: tuple[int, int]) -> Tensor:
        """Return a term as a matrix of the whole parameter."""
        matrix = source.term.matrix()
        matrix = matrix if w == 1.0 else matrix * w
        window = source.window
        if window is None:
            return matrix.reshape(shape)
        after = shape[window.axis] - window.stop
        return F.pad(matrix, (0, 0, window.start, after) if window.axis == 0 else (window.start, after))


def parametrization_of(module: nn.Module, attribute: str) -> AdditiveParametrization | None:
    """Return our parametrization of a parameter, or None."""
    if not parametrize.is_parametrized(module, attribute):
        return None
    held: Any = module.parametrizations[attribute]  # type: ignore[index]
    return next((p for p in held if isinstance(p, AdditiveParametrization)), None)


def is_covered(module: nn.Module, attribute: str) -> bool:
    """Tell whether a parametrization of another kind was put on top of ours."""
    ours = parametrization_of(module, attribute)
    return ours is not None and bool(_others(module, attribute, ours))


def parametrized(module: nn.Module, attribute: str) -> AdditiveParametrization:
    """Return our parametrization of a parameter, registered now if there is none."""
    known = parametrization_of(module, attribute)
    if known is not None:
        return known
    entries: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    others = [ours for name in entries if (ours := parametrization_of(module, name)) is not None]
    entry = AdditiveParametrization(others[0].order if others else list(module._parameters))
    if entries and attribute not in entries:
        module.__class__ = _class_like(type(module))
    # torch sets the parameter to itself, which one made in inference mode bears in that mode alone
    with torch.inference_mode(getattr(module, attribute).is_inference()):
        # unsafe: our forward keeps shape and dtype by construction, and the check would run the term once for nothing
        parametrize.register_parametrization(module, attribute, entry, unsafe=True)
    return entry


def take_off(module: nn.Module, attribute: str, entry: AdditiveParametrization) -> None:
    """Take our parametrization away, and nothing else; the parameter is the very same tensor, in its old place.

    Raises:
        ConfigError: If the module got another class since, so that there is no way back.
    """
    entries: Any = module.parametrizations
    held = entries[attribute]
    if others := _others(module, attribute, entry):
        named = {name: inner for name, inner in held._modules.items() if not name.isdigit()}
        held._modules = {**{str(i): p for i, p in enumerate(others)}, **named}
        return
    if attribute not in vars(type(module)):
        raise ConfigError(
            f"{type(module).__name__}.{attribute}: the module got another class after attach (fully_shard does that), "
            "and its parametrization cannot be taken off; detach first, or go on with a copy of the model"
        )
    del entries[attribute]
    if entries:
        module.__class__ = _class_like(type(module), without=attribute)
    else:
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
    tensors = module._parameters if isinstance(held.original, nn.Parameter) else module._buffers
    tensors[attribute] = held.original
    _reorder(module._parameters, entry.order)


def _others(module: nn.Module, attribute: str, entry: AdditiveParametrization) -> list[nn.Module]:
    """Return the parametrizations of a parameter beside ours; torch numbers them."""
    held: Any = module.parametrizations[attribute]  # type: ignore[index]
    return [p for name, p in held._modules.items() if name.isdigit() and p is not entry]


def _class_like(cls: type, without: str | None = None) -> type:
    """Return a new class with the base and the properties of a parametrized one, for one module alone."""
    own = {name: thing for name, thing in vars(cls).items() if name not in ("__dict__", "__weakref__", without)}
    return type(cls.__name__, cls.__bases__, own)


def _reorder(parameters: dict[str, Any], order: Sequence[str]) -> None:
    """Put the parameters that were there before the first attach in their old order, and others behind."""
    for name in [name for name in order if name in parameters] + [name for name in parameters if name not in order]:
        parameters[name] = parameters.pop(name)
