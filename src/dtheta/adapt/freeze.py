"""Freezing: the base of an adapter does not train, and gets its ``requires_grad`` flags back with the last adapter."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.tensors import owners

# How many adapters hold each parameter frozen, and the flag that it had before the first one came. Keyed by identity;
# the weak reference tells a parameter from a later one at the same address.
_held: dict[int, tuple[weakref.ref[Tensor], int, bool]] = {}


class Freeze:
    """One adapter's hold on the parameters of its base; a deep copy holds the copied parameters."""

    def __init__(self, model: nn.Module) -> None:
        found: dict[int, tuple[nn.Parameter, list[str]]] = {}
        for owner, p in owners(model, buffers=False):
            if isinstance(p, nn.Parameter):
                found.setdefault(id(p), (p, []))[1].append(owner.name)
        self._flags = [(p, names, _hold(p, p.requires_grad)) for p, names in found.values()]

    def thaw(self, model: nn.Module) -> None:
        """Let go, and give their flags back to the parameters that no other adapter holds.

        A flag also reaches what stands in the place of a parameter by now: ``load_state_dict(..., assign=True)`` puts
        new parameters there, as frozen as those were that it found.
        """
        now = {owner.name: p for owner, p in owners(model, buffers=False) if isinstance(p, nn.Parameter)}
        for p, names, flag in self._flags:
            _, count, flag = _known(p, flag)
            if count > 1:
                _held[id(p)] = (weakref.ref(p), count - 1, flag)
                continue
            _held.pop(id(p), None)
            _set(p, flag)
            for new in {id(new): new for name in names if (new := now.get(name, p)) is not p}.values():
                _inherit(new, flag)
        self._flags = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Freeze:
        from copy import deepcopy

        twin = object.__new__(type(self))
        memo[id(self)] = twin
        copied = [(deepcopy(p, memo), names, flag) for p, names, flag in self._flags]
        twin._flags = [(p, names, _hold(p, flag)) for p, names, flag in copied]
        return twin


def _known(p: Tensor, flag: bool) -> tuple[Any, int, bool]:
    entry = _held.get(id(p))
    return entry if entry is not None and entry[0]() is p else (None, 0, flag)


def _hold(p: Tensor, flag: bool) -> bool:
    """Freeze a parameter and return the flag that it had before anyone held it."""
    _, count, flag = _known(p, flag)
    _held[id(p)] = (weakref.ref(p), count + 1, flag)
    _set(p, False)
    return flag


def _inherit(p: Tensor, flag: bool) -> None:
    """Let a parameter train if the one before it did: now, or when the adapters that hold it let go."""
    _, count, own = _known(p, flag)
    if count:
        _held[id(p)] = (weakref.ref(p), count, own or flag)
    elif flag:
        _set(p, True)


def _set(p: Tensor, flag: bool) -> None:
    if p.requires_grad != flag:
        with torch.inference_mode(p.is_inference()):  # parameters made in that mode change their flag nowhere else
            p.requires_grad_(flag)
