"""Prompts composed: coefficients of vectors that the base does not have, which an adapter shows to the model.

    P^(j) = sum_i c_i^(j) P_i^(j)               one number per (delta i, name j)
    dL/dc_i^(j) = <dL/dP^(j), P_i^(j)>          one backward pass to the vectors, then inner products

As for weights (gradient.py), the sum is never built inside the graph, and tables in factored form stay factored in the
inner products. There is no base to start from: zero coefficients are virtual tokens of zeros, which still take their
places, and not the absence of a prompt. So coefficients start at 1/n, the mean of the prompts, and weight decay pulls
them there. aTLAS (arXiv 2407.02880) itself scales weights only; that prompts are scaled is ours.

The composed vectors are leaves that an adapter of the same names shows in place of its own, which stay as they are.

Shape legend: n deltas, m names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from dtheta.compose.gradient import Composition, subspaces
from dtheta.compose.swap import Place, stamp, swapped
from dtheta.core.apply import originals
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer, did_you_mean


class Carrier(Protocol):
    """What the adapter of a prompt offers here."""

    model: nn.Module
    weight: float
    enabled: bool

    @property
    def attached(self) -> bool:
        """Whether it is on its model."""
        ...

    @property
    def sites(self) -> Mapping[str, Any]:
        """The parameters of the model that it moves."""
        ...

    @property
    def grafts(self) -> tuple[str, ...]:
        """The names of its new vectors."""
        ...

    def showing(self, vectors: Mapping[str, Tensor]) -> AbstractContextManager[Mapping[str, nn.Parameter]]:
        """Run a block in which the model sees other vectors; they come as parameters on the same memory."""
        ...


def check_prompts(model: nn.Module, deltas: Sequence[Delta], joint: Delta, strict: bool = True) -> None:
    """Raise unless an adapter can show compositions of deltas.

    Args:
        model: What should be an adapter of new vectors.
        deltas: n deltas, some of which bring new vectors.
        joint: Their sum.
        strict: Whether what the vectors stand beside must be, bit for bit, that of the deltas' base.

    Raises:
        UnsupportedLayer: If it is no adapter, or deltas move weights too.
        UnknownParameter: If names differ between deltas, or between these and the adapter.
        ConfigError: If the adapter is detached, disabled, has a weight of its own, or moves weights too.
        BaseMismatch: If the deltas are of another base.
    """
    new = next(iter(joint.new))
    if not callable(getattr(type(model), "showing", None)):  # of the class: an adapter reads like its model
        raise UnsupportedLayer(
            f"{new}: a delta brings a vector that the model does not have; attach one of the deltas, and give the "
            "adapter in place of the model: learn_coefficients(dt.attach(model, deltas[0]), deltas, ...)"
        )
    if moved := next((name for name in joint if name not in joint.new), None):
        raise UnsupportedLayer(
            f"the deltas bring {new!r} and move {moved!r}: coefficients of new vectors and of weights are learned "
            "apart; take one side with delta.restrict(...)"
        )
    adapter = cast("Carrier", model)
    _check_adapter(adapter)
    for i, delta in enumerate(deltas):
        _check_names(f"delta {i}", list(delta), joint)
    _check_names("the adapter", adapter.grafts, joint)
    if strict:
        joint.base.check(originals(adapter.model))


def _check_adapter(adapter: Carrier) -> None:
    if not adapter.attached:
        raise ConfigError("this adapter is detached; attach one of the deltas anew, and give that adapter")
    if not adapter.enabled or adapter.weight != 1.0:
        found = f"weight {adapter.weight:g}" if adapter.enabled else "enabled=False"
        raise ConfigError(f"the adapter has {found}, so the model would not see what is composed; attach anew")
    if adapter.sites:
        raise ConfigError(
            f"the adapter also moves {next(iter(adapter.sites))!r}, which no composition of these deltas would; attach "
            "one of the deltas, and give that adapter"
        )


def _check_names(who: str, found: Sequence[str], joint: Delta) -> None:
    if missing := next((name for name in joint if name not in found), None):
        near = did_you_mean(missing, found)
        raise UnknownParameter(f"{who} has no {missing!r}, which a delta brings{near}; give prompts of one kind")
    if other := next((name for name in found if name not in joint), None):
        raise UnknownParameter(f"{who} has {other!r}, which no delta brings; attach one of the deltas instead")


@contextmanager
def shown(
    model: nn.Module, deltas: Sequence[Delta], names: Sequence[str], selected: Tensor, parts: int = 1, seed: int = 0
) -> Iterator[Composition]:
    """Run a block in which an adapter shows the composition of its kind of vectors; see ``gradient.composed``.

    Raises:
        ShapeMismatch: If the adapter's vectors have other shapes.
    """
    adapter = cast("Carrier", model)
    device = next(model.parameters()).device
    first = {name: deltas[0][name] for name in names}
    made = {name: torch.zeros(change.shape, dtype=change.dtype, device=device) for name, change in first.items()}
    with swapped(model, [], {}), adapter.showing(made) as leaves:
        found = [Place(name, (leaves[name],)) for name in names]
        spaces = subspaces(deltas, found, selected, parts, seed)

        @torch.no_grad()
        def show(values_nmK: Tensor, exact: bool) -> None:
            for j, space in enumerate(spaces):
                write = space.exactly if exact else space.down
                write(None, values_nmK[:, j], leaves[space.name])
            stamp(found)

        composition = Composition(adapter.model, spaces, {place.name: place.tensors for place in found}, show)
        # the vectors are float32 beside embeddings of float16, whose gradients underflow all the same
        composition.half = any(p.dtype == torch.float16 for p in adapter.model.parameters())
        with composition.listening():
            yield composition
