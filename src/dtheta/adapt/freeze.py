"""Freezing: the base of an adapter does not train, and gets its ``requires_grad`` flags back with the last adapter."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

from dtheta.core.tensors import owners

# How many adapters hold each parameter frozen, and the flag that it had before the first one came. Keyed by identity;
# the weak reference tells a parameter from a later one at the same address.
_held: dict[int, tuple[weakref.ref[Tensor], int, bool]] = {}


class Freeze:
    """One adapter's hold on the parameters of its base; a deep copy holds the copied parameters."""

    def __init__(self, model: nn.Module) -> None:
        found = {id(p): p for _, p in owners(model, buffers=False) if isinstance(p, nn.Parameter)}
        self._flags = [(p, _hold(p, p.requires_grad)) for p in found.values()]

    def thaw(self) -> None:
        """Let go, and give their flags back to the parameters that no other adapter holds."""
        for p, flag in self._flags:
            _, count, _ = _known(p, flag)
            if count > 1:
                _held[id(p)] = (weakref.ref(p), count - 1, flag)
            else:
                _held.pop(id(p), None)
                p.requires_grad_(flag)
        self._flags = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Freeze:
        from copy import deepcopy

        twin = object.__new__(type(self))
        memo[id(self)] = twin
        copied = [(deepcopy(p, memo), flag) for p, flag in self._flags]
        twin._flags = [(p, _hold(p, flag)) for p, flag in copied]
        return twin


def _known(p: Tensor, flag: bool) -> tuple[Any, int, bool]:
    entry = _held.get(id(p))
    return entry if entry is not None and entry[0]() is p else (None, 0, flag)


def _hold(p: Tensor, flag: bool) -> bool:
    """Freeze a parameter and return the flag that it had before anyone held it."""
    _, count, flag = _known(p, flag)
    _held[id(p)] = (weakref.ref(p), count + 1, flag)
    p.requires_grad_(False)
    return flag
