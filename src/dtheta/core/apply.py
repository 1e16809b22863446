"""Apply a delta: for the length of a block, or in a copy. The base's own storage is never written to.

    tensor = round(base + D1 + D2 + ...)        in float64, rounded once to the dtype of the base

``applied`` gives the model's tensors other storage and takes it away again, so every bit is as it was: after the
block, after an exception, and whatever the order in which several blocks end. Rounding once means that two blocks
inside each other give what one block with the sum gives.

A graph recorded inside a block cannot be differentiated after it (the weights it saw are gone): torch then raises,
because the tensors' version differs. One recorded before the block can.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dtheta.core.arguments import one_delta, require_flag
from dtheta.core.block import Block
from dtheta.core.change import Change, matrix_shape
from dtheta.core.combination import Scaled, Sum
from dtheta.core.delta import Delta
from dtheta.core.displace import displaced, displaced_with_error
from dtheta.core.naming import naming
from dtheta.core.overlap import refuse_overlap
from dtheta.core.spectral import Spectral
from dtheta.core.tensors import Owner, attached_to, same_bits, shared, why_unreadable, why_unwritable
from dtheta.errors import (
    ConfigError,
    DthetaWarning,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
    did_you_mean,
)


@dataclass(frozen=True)
class Rounding:
    """What rounding to the base's dtype did to a delta.

    Attributes:
        relative: ||realized - wanted|| / ||wanted|| by parameter; 1 where the base swallowed all of it.
    """

    relative: Mapping[str, float]

    @property
    def worst(self) -> str | None:
        """The parameter with the largest relative error; None if there is none."""
        return max(self.relative, key=lambda name: self.relative[name], default=None)

    @property
    def max_relative(self) -> float:
        """The largest relative error; 0 if nothing changed."""
        return max(self.relative.values(), default=0.0)


@contextmanager
def applied(model: nn.Module, delta: Delta, strict: bool = True) -> Iterator[nn.Module]:
    """Run a block with the delta on the model; after it, every bit of the model is as it was.

    Adapters that are attached keep working. Blocks may be nested, and may end in any order, also those of several
    threads; what one thread shows on a model, all threads see, so that each needs a copy for outputs of its own.

    Args:
        model: Any module, with or without adapters.
        delta: The change; unbound spectral changes take their basis from the model.
        strict: Whether the touched tensors must be, bit for bit, those the delta was made on.

    Raises:
        BaseMismatch: If the delta was made on another base, naming the first tensors that differ.
        UnknownParameter: If the model lacks a parameter of the delta.
        ShapeMismatch: If a parameter has another shape.
        UnsupportedLayer: If the delta brings new vectors (attach it instead), or a tensor cannot be moved (meta
            device, sharded, an integer tensor that would become a fraction, a view of another parameter's memory).
        NonFinite: If the sum overflows the dtype of the base.
    """
    token = object()
    found: list[tuple[_Layer, Change]] = []
    try:
        with _turn:
            found = _layers(model, delta, strict)
            prepared = [
                (layer, displaced(layer.original, [*layer.changes.values(), c], layer.name)) for layer, c in found
            ]
            _warn_if_swallowed([change for _, change in found], [(layer.tensors[0], new) for layer, new in prepared], 3)
            for (layer, change), (_, new) in zip(found, prepared, strict=True):
                layer.changes[token] = change
                layer.show(new)
            del prepared
        yield model
    finally:
        with _turn:
            lost = [layer.name for layer, _ in reversed(found) if token in layer.changes and not layer.leave(token)]
        if lost:
            raise UnsupportedLayer(
                f"{lost[0]}: its module holds another tensor than when the block began, so it could not be restored; "
                "replace tensors outside of 'applied'"
            )


class _Layer:
    """One base tensor with the displacements that are on it just now: its original storage, and who holds it."""

    def __init__(self, name: str, held: Sequence[tuple[Owner, Tensor]]) -> None:
        self.name = name
        self.owners = [(owner, tensor) for owner, tensor in held]
        self.tensors = list({id(tensor): tensor for _, tensor in held}.values())
        self.original = self.tensors[0].detach()
        self.versions = [_version(tensor) for tensor in self.tensors]
        self.changes: dict[object, Change] = {}

    def show(self, value: Tensor) -> None:
        """Give the tensors other storage, and a version that no graph recorded before has seen."""
        torch.clear_autocast_cache()  # an autocast region around this may hold casts of the old numbers
        for tensor in self.tensors:
            _active[id(tensor)] = self
            tensor.data = value.to(tensor.device, tensor.dtype)
            _set_version(tensor, next(_stamps))

    def leave(self, token: object) -> bool:
        """Take one displacement away; tell whether the modules still hold the tensors that were restored."""
        del self.changes[token]
        if self.changes:
            self.show(displaced(self.original, list(self.changes.values()), self.name, check=False))
        else:
            self.show(self.original)  # on the device and in the dtype to which the model was moved meanwhile
            for tensor, version in zip(self.tensors, self.versions, strict=True):
                del _active[id(tensor)]
                _set_version(tensor, version)
        return all(_held(owner) is tensor for owner, tensor in self.owners)


# The tensors that show something else than their base just now, by identity; a layer keeps its tensors alive.
_active: dict[int, _Layer] = {}
_stamps = itertools.count(1 << 24)
# Held while tensors are read as a base or given other storage: a thread must not take for the base what another shows.
_turn = threading.RLock()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _set_version(tensor: Tensor, version: int) -> None:
    if not tensor.is_inference():
        torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))  # type: ignore[attr-defined]


def _held(owner: Owner) -> Tensor | None:
    if parametrize.is_parametrized(owner.module, owner.attribute):
        return owner.module.parametrizations[owner.attribute].original  # type: ignore[index]
    return getattr(owner.module, owner.attribute, None)


def original(tensor: Tensor) -> Tensor:
    """Return the base of a model's tensor: what it was before any ``applied`` block around this."""
    layer = _active.get(id(tensor))
    return tensor if layer is None else layer.original


def originals(model: nn.Module) -> dict[str, Tensor]:
    """Return the base tensors of a model, without what ``applied`` blocks put on them, by every name they go by."""
    return {owner.name: original(tensor) for held in shared(model).values() for owner, tensor in held}


def _layers(model: nn.Module, delta: Delta, strict: bool) -> list[tuple[_Layer, Change]]:
    """Check that a delta fits a model and return the tensors it moves, each with its bound change."""
    delta = one_delta(delta)
    require_flag(strict, "strict", ". A part of a delta is a product: 0.3 * delta")
    if new := next(iter(delta.new), None):
        raise UnsupportedLayer(
            f"{new}: the delta brings a vector that the model does not have, so it cannot be added to its weights; "
            "attach it instead: dt.attach(model, delta)"
        )
    tensors = originals(model)
    check_base(delta, tensors, strict)
    table = shared(model)
    canonical = {owner.name: name for name, held in table.items() for owner, _ in held}
    refuse_overlap(table, (canonical[name] for name in delta.changes))
    taken: dict[str, str] = {}
    layers = []
    for name, change in delta.changes.items():
        base_name = canonical[name]
        if base_name in taken:
            raise UnsupportedLayer(
                f"the delta changes both {taken[base_name]!r} and {name!r}, which are one tied tensor in this model"
            )
        if why := why_unwritable(table[base_name][0][1]):
            raise UnsupportedLayer(f"{name}: the delta cannot be added to this tensor: {why}")
        taken[base_name] = name
        layer = _active.get(id(table[base_name][0][1])) or _Layer(name, table[base_name])
        layers.append((layer, bound_to(name, change, layer.original)))
    return layers


def _warn_if_swallowed(changes: Sequence[Change], pairs: Sequence[tuple[Tensor, Tensor]], frames: int) -> None:
    """Say so where no tensor moved although the changes are not zero.

    Args:
        changes: The changes.
        pairs: The tensors before and after.
        frames: Calls from here to the line of the user's, which the warning names.
    """
    if not pairs or not all(same_bits(before, after) for before, after in pairs):
        return
    norm = math.hypot(*(change.norm() for change in changes))
    if norm > 0:
        warnings.warn(
            f"the delta (norm {norm:.3g}) changes nothing: every step is below the rounding of the base's "
            f"dtype, {pairs[0][0].dtype}; load the base in a wider dtype, or attach the delta instead of adding it",
            DthetaWarning,
            stacklevel=frames + 1,
        )


def merge(model: nn.Module, delta: Delta, strict: bool = True) -> nn.Module:
    """Return a copy of the model with the delta in it; ``copy.dtheta_rounding`` says what rounding did (`Rounding`).

    Args:
        model: Any module, without adapters attached; it is not changed.
        delta: The change; unbound spectral changes take their basis from the model.
        strict: Whether the touched tensors must be, bit for bit, those the delta was made on.

    Raises:
        ConfigError: If an adapter is attached, or another delta applied.
        BaseMismatch, UnknownParameter, ShapeMismatch, UnsupportedLayer, NonFinite: As ``applied``.
    """
    if attached := attached_to(model):
        raise ConfigError(
            f"an adapter is attached to {attached[0] or 'the model'!r}: merge into the plain base, after "
            "adapter.detach(); to merge several deltas, merge their sum"
        )
    with _turn:
        layers = _layers(model, delta, strict)
        if any(id(tensor) in _active for held in shared(model).values() for _, tensor in held):
            raise ConfigError(
                "another delta is applied to the model just now: leave that block, or merge the sum of both"
            )
        relative: dict[str, float] = {}
        memo: dict[int, object] = {}
        pairs = []
        for layer, change in layers:
            new, relative[layer.name] = displaced_with_error(layer.original, [change], layer.name)
            pairs.append((layer.original, new))
            memo |= {id(tensor): _like(tensor, new) for tensor in layer.tensors}
        _warn_if_swallowed([change for _, change in layers], pairs, 2)
        merged = copy.deepcopy(model, memo)
    merged.dtheta_rounding = Rounding(relative)  # type: ignore[assignment]
    return merged


def _like(tensor: Tensor, new: Tensor) -> Tensor:
    """Return ``new`` as the copy of a parameter or buffer."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def bind(delta: Delta, model: nn.Module | Mapping[str, Tensor], *, strict: bool = True) -> Delta:
    """Return the delta with the singular vectors of spectral changes taken from their base weights.

    Args:
        delta: The delta.
        model: Its base: a module, with or without adapters, or tensors by name.
        strict: Whether the touched tensors must be, bit for bit, those the delta was made on.

    Raises:
        BaseMismatch, UnknownParameter, ShapeMismatch, UnsupportedLayer: As ``applied``; a basis that does not
            reproduce the stored probe is a BaseMismatch too.
        ConfigError: If ``strict`` is neither True nor False.
    """
    require_flag(strict, "strict")
    tensors = model if isinstance(model, Mapping) else originals(model)
    check_base(delta, tensors, strict)
    if isinstance(model, nn.Module):
        table, touched = shared(model), set(delta.changes)
        refuse_overlap(table, (name for name, held in table.items() if any(o.name in touched for o, _ in held)))
    changes = {n: c if c.is_new else bound_to(n, c, tensors[n]) for n, c in delta.changes.items()}
    if all(changes[name] is delta.changes[name] for name in changes):
        return delta
    result = Delta(changes, delta.base, delta.provenance)
    if "digest" in delta.__dict__:  # the basis is no part of the identity
        object.__setattr__(result, "digest", delta.digest)
    return result


def bound_to(name: str, change: Change, weight: Tensor) -> Change:
    """Return ``bound(change, weight)``; its errors name the parameter.

    Raises:
        BaseMismatch: If the singular vectors of the weight do not reproduce a stored probe.
        NonFinite: If the weight of a spectral change holds NaN or infinity.
    """
    return naming(name, lambda: bound(change, weight))


def bound(change: Change, weight: Tensor) -> Change:
    """Return a change with every spectral change in it bound to the weight, or the window of it that it moves."""
    if isinstance(change, Spectral):
        return change.bind(weight)
    if isinstance(change, Scaled):
        term = bound(change.term, weight)
        return change if term is change.term else Scaled(change.factor, term)
    if isinstance(change, Sum):
        terms = tuple(bound(term, weight) for term in change.terms)
        return change if all(a is b for a, b in zip(terms, change.terms, strict=True)) else Sum(terms)
    if isinstance(change, Block):
        matrix = weight.reshape(matrix_shape(weight.shape))
        window = matrix.narrow(change.axis, change.start, change.stop - change.start)
        term = bound(change.term, window.reshape(change.term.shape))
        return change if term is change.term else Block(term, change.axis, change.start, change.full_shape)
    return change


def check_base(delta: Delta, tensors: Mapping[str, Tensor], strict: bool) -> None:
    """Raise unless a base, given as tensors by name, fits a delta; ``strict`` compares the content too.

    Raises:
        BaseMismatch, UnknownParameter, ShapeMismatch, UnsupportedLayer: As ``applied``.
    """
    touched = {name: change for name, change in delta.changes.items() if not change.is_new}
    look = getattr(tensors, "info", tensors.__getitem__)  # a checkpoint tells shapes without reading tensors
    found = {name: look(name) for name in touched if name in tensors}
    for name, tensor in found.items():
        if isinstance(tensor, Tensor) and (why := why_unreadable(tensor)):
            raise UnsupportedLayer(f"{name}: the base tensor cannot be used: {why}")
    if strict:
        delta.base.check(tensors, touched)
    for name, change in touched.items():
        if name not in found:
            near = did_you_mean(name, tensors)
            raise UnknownParameter(f"the delta changes {name!r}, which the base does not have{near}")
        shape = tuple(found[name].shape)
        if shape != tuple(change.shape):
            raise ShapeMismatch(f"{name}: the delta changes a tensor of {tuple(change.shape)}, the base has {shape}")
