"""Swap: for the length of a block, parameters show other storage and collect gradients; then all is as before.

The base's storage is set aside and never written to. A parameter stays the object that it is, so whatever holds it
(tied layers, the flat lists of recurrent networks, a compiled graph) sees the new numbers too. Every parameter that is
not asked for is frozen meanwhile, so no gradient is computed for it.

Every ``stamp`` gives the parameters a version that no graph has seen: a graph that is older than the numbers shown
cannot be differentiated by accident; torch raises.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtheta.core.apply import original
from dtheta.core.tensors import shared, why_unreadable, why_unwritable
from dtheta.errors import ConfigError, UnsupportedLayer

_stamps = itertools.count(1 << 40)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Place:
    """One parameter of a model.

    Attributes:
        name: As a delta calls it.
        tensors: The tensor objects that are this parameter: one, or more that share its memory.
    """

    name: str
    tensors: tuple[Tensor, ...]

    @property
    def base(self) -> Tensor:
        """The base's own numbers, as long as nothing is swapped."""
        return self.tensors[0].detach()


def places(model: nn.Module, names: Sequence[str]) -> list[Place]:
    """Return where the named parameters are.

    Raises:
        UnsupportedLayer: If one of them is a buffer, is no plain floating-point tensor, or is tied to another of them.
        ConfigError: If a delta is applied to the model just now.
    """
    table = shared(model)
    canonical = {owner.name: name for name, held in table.items() for owner, _ in held}
    taken: dict[str, str] = {}
    found = []
    for name in names:
        other = taken.setdefault(canonical[name], name)
        if other != name:
            raise UnsupportedLayer(f"deltas change both {other!r} and {name!r}, one tied tensor in this model")
        held = {id(tensor): tensor for _, tensor in table[canonical[name]]}
        _check(name, list(held.values()))
        found.append(Place(name, tuple(held.values())))
    return found


def _check(name: str, tensors: Sequence[Tensor]) -> None:
    tensor = tensors[0]
    if why := why_unreadable(tensor) or why_unwritable(tensor):
        raise UnsupportedLayer(f"{name}: coefficients cannot be learned for this tensor: {why}")
    if not all(isinstance(t, nn.Parameter) for t in tensors) or tensor.dtype not in _FLOATS:
        raise UnsupportedLayer(
            f"{name}: a {type(tensor).__name__} of {tensor.dtype} takes no gradient, so its coefficients cannot be "
            "learned; leave it out: delta.restrict('*.weight|*.bias')"
        )
    if tensor.is_inference():
        raise UnsupportedLayer(f"{name}: made in inference mode, it takes no gradient; load the model outside of it")
    if original(tensor) is not tensor:
        raise ConfigError("a delta is applied to the model just now: leave that block first")


@contextmanager
def swapped(model: nn.Module, found: Sequence[Place], buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a block in which each place shows its buffer and takes gradients, and nothing else of the model does.

    Storage, gradients, flags and versions are given back, also when the block raises.
    """
    shown = {id(t): buffers[place.name] for place in found for t in place.tensors}
    parameters = list({id(p): p for p in model.parameters()}.values())
    before = [(p, p.data, p.grad, p.requires_grad, p._version) for p in parameters if not p.is_inference()]
    try:
        for parameter, *_ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in shown)
            if id(parameter) in shown:
                parameter.data = shown[id(parameter)]
        stamp(found)
        yield
    finally:
        for parameter, data, grad, flag, version in before:
            if id(parameter) in shown:
                parameter.data = data
                _set_version(parameter, version)
            parameter.grad = None
            parameter.requires_grad_(flag)
            parameter.grad = grad
        torch.clear_autocast_cache()


def stamp(found: Sequence[Place]) -> None:
    """Say that the numbers shown are new: graphs recorded before can no longer be differentiated."""
    torch.clear_autocast_cache()  # an autocast region around this may hold casts of the old numbers
    version = next(_stamps)
    for place in found:
        for tensor in place.tensors:
            _set_version(tensor, version)


def _set_version(tensor: Tensor, version: int) -> None:
    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))  # type: ignore[attr-defined]
