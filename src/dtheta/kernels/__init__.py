"""Kernels of networks: tangent vectors, what training does with them, and random features in place of layers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtheta.kernels import infinite as infinite


def __getattr__(name: str) -> Any:
    if name == "infinite":  # on first use: the other kernels need none of its modules
        return import_module("dtheta.kernels.infinite")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
