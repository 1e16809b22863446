"""How a model runs with an MLP replaced: forwards of ours on the modules that hold it, set on the instances.

    entry     returns what stands in for the MLP, in place of its own output
    passed    return their input: the output of the MLP has come to them already

No module is replaced or renamed and no weight is moved. Layers that nobody reads meanwhile are marked, so that nothing
is attached to them in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from dtheta.core.mlps import Mlp
from dtheta.core.tensors import attached_to
from dtheta.errors import UnsupportedLayer

_MARK = "dtheta_replaced"


class StandIn(Protocol):
    """What takes the place of an MLP."""

    def active(self) -> bool:
        """Tell whether it does so just now."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return y (..., D) for x (..., d)."""
        ...


class ReplacedForward:
    """The forward of a module that holds an MLP, or a part of it, while another function stands in."""

    is_dtheta_term = True

    def __init__(self, module: nn.Module, source: StandIn, passes: bool) -> None:
        self.module = module
        self.source = source
        self.passes = passes
        self.inner: Any = module.__dict__.get("forward")  # what the instance had before: accelerate's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's output: its own where the stand-in is not active."""
        if not self.source.active():
            return (
                self.inner(*args, **kwargs) if self.inner else type(self.module).forward(self.module, *args, **kwargs)
            )
        x = args[0] if args else next(iter(kwargs.values()))
        return x if self.passes else self.source(x)


def why_unread(module: nn.Module) -> str:
    """Return why what is attached to a layer would do nothing or break, or an empty string."""
    return module.__dict__.get(_MARK, "")


def put_on(mlp: Mlp, source: StandIn) -> None:
    """Let a function stand in for an MLP.

    Raises:
        UnsupportedLayer: If the MLP is replaced already, or an adapter is on one of its layers.
    """
    held = [module for module in (mlp.entry, *mlp.passed) if attached_to(module)]
    if held:
        replaced = isinstance(held[0].__dict__.get("forward"), ReplacedForward)
        what = "is replaced already" if replaced else "has an adapter on one of its layers, which nothing would read"
        raise UnsupportedLayer(f"{mlp.name or 'the model'}: this MLP {what}; detach that first")
    for module in (mlp.entry, *mlp.passed):
        module.__dict__["forward"] = ReplacedForward(module, source, module is not mlp.entry)
    for layer in mlp.layers:
        layer.__dict__[_MARK] = f"the MLP {mlp.name!r} that it is of is replaced"


def take_off(mlp: Mlp, source: StandIn) -> None:
    """Give the modules of an MLP their own forwards back, if this function stands in for it."""
    for module in (mlp.entry, *mlp.passed):
        held = module.__dict__.get("forward")
        if isinstance(held, ReplacedForward) and held.source is source:
            del module.__dict__["forward"]
            if held.inner is not None:
                module.__dict__["forward"] = held.inner
    for layer in mlp.layers:
        layer.__dict__.pop(_MARK, None)


class _Always:
    """A module that always stands in."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def active(self) -> bool:
        return True

    def __call__(self, x: Tensor) -> Tensor:
        return self.module(x).to(x.dtype)


@contextmanager
def standing_in(found: list[tuple[Mlp, nn.Module]]) -> Iterator[None]:
    """Run a block in which modules stand in for MLPs.

    Raises:
        UnsupportedLayer: As ``put_on``.
    """
    placed: list[tuple[Mlp, StandIn]] = []
    try:
        for mlp, module in found:
            source = _Always(module)
            put_on(mlp, source)
            placed.append((mlp, source))
        yield
    finally:
        for mlp, source in placed:
            take_off(mlp, source)
