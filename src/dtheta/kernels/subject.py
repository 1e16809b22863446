"""Subject: what moves. The parameters of a model, or the trainable terms beside it, as targets of one list.

A term displaces a parameter of the base, W + w D(factors), so the derivatives by its factors follow from those by W:
the term itself knows how (``tangents``). Everything else that trains, such as the vectors of a prompt, is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dtheta.core.modes import kept_modes
from dtheta.core.selection import Site
from dtheta.core.selection import select as select_sites
from dtheta.core.selection import sites as all_sites
from dtheta.core.tensors import shared, why_unreadable
from dtheta.errors import ConfigError, UnsupportedLayer


@dataclass(frozen=True, eq=False)
class Target:
    """One thing that moves.

    Attributes:
        key: Its name.
        source: The name of the parameter whose uses are watched: its own, or the one that a term displaces.
        tensors: The tensors that are that parameter.
        site: Where in the base it is; None for a new vector.
        term: The term that displaces it, or None.
        weight: Factor of the term's displacement.
        moving: By which the derivatives are, by name: the parameter itself, or the term's factors.
    """

    key: str
    source: str
    tensors: tuple[Tensor, ...]
    site: Site | None
    term: Any
    weight: float
    moving: Mapping[str, nn.Parameter]

    @property
    def size(self) -> int:
        """The number of entries that move."""
        if self.term is None and self.site is not None and self.site.window is not None:
            rows, columns = self.site.shape
            return rows * columns
        return sum(p.numel() for p in self.moving.values())


def targets_of(model: nn.Module, select: str | None) -> list[Target]:
    """Return what moves.

    Args:
        model: A model, of which parameters move; or an adapter, whose trainable parameters do.
        select: Which parameters of a plain model, as in ``core.selection``, whether they train or not; None for all
            that train (``requires_grad``).

    Raises:
        ConfigError: If nothing moves, or a selection is given with an adapter.
    """
    if is_adapter(model):
        if select is not None:
            raise ConfigError("an adapter moves what it was attached to; select is for plain models: pass select=None")
        found = list(_of_adapter(model))
    else:
        chosen = all_sites(model).values() if select is None else select_sites(model, select, matrices=False)
        table = shared(model)
        found = [t for s in chosen if select is not None or s.tensor.requires_grad for t in _of_site(table, s)]
    if not found and next(model.parameters(), None) is None:
        raise ConfigError(f"a {type(model).__name__} has no parameters: nothing moves, and there is no kernel")
    if not found:
        raise ConfigError("nothing of this model trains: every parameter has requires_grad False; pass select='@all'")
    for target in found:
        _require_plain(target)
    return found


def targets_at(model: nn.Module, sites: Sequence[Site]) -> list[Target]:
    """Return the parameters at sites as targets, slices of fused ones included."""
    table = shared(model)
    found = [target for site in sites for target in _of_site(table, site)]
    for target in found:
        _require_plain(target)
    return found


def is_adapter(model: Any) -> bool:
    """Tell whether a model is one with trainable terms beside it."""
    return all(hasattr(type(model), name) for name in ("trainable", "term", "sites", "grafts"))


def _of_site(table: Mapping[str, Sequence[tuple[Any, Tensor]]], site: Site) -> Iterator[Target]:
    """Yield the parameter at a site; ``table`` is that of ``shared``, made once for all sites."""
    parameters = {id(t): t for _, t in table[site.name]}
    if not site.tensor.is_floating_point():
        return
    first: Any = site.tensor
    yield Target(site.key, site.name, tuple(parameters.values()), site, None, 1.0, {site.name: first})


def _of_adapter(adapter: Any) -> Iterator[Target]:
    if not adapter.attached:
        raise ConfigError("this adapter is detached, so nothing of it acts; attach it, or pass the model")
    weight = float(adapter.weight) if adapter.enabled else 0.0
    table = shared(adapter.model)
    for key, site in adapter.sites.items():
        term = adapter.term(key)
        moving = {f"{key}.{n}": p for n, p in term.named_parameters() if p.requires_grad}
        if moving:
            tensors = {id(t): t for _, t in table[site.name]}
            yield Target(key, site.name, tuple(tensors.values()), site, term, weight, moving)
    for key in adapter.grafts:
        for name, parameter in adapter.term(key).named_parameters():
            if parameter.requires_grad:
                full = f"{key}.{name}"
                yield Target(full, full, (parameter,), None, None, 1.0, {full: parameter})


def _require_plain(target: Target) -> None:
    if target.term is None and len(target.tensors) > 1:
        raise UnsupportedLayer(
            f"{target.key}: {len(target.tensors)} parameters on the same memory, whose gradients autograd keeps apart; "
            "tie them as one object, such as model.head.weight = model.table.weight"
        )
    for tensor in (*target.tensors, *target.moving.values()):
        if why := why_unreadable(tensor):
            raise UnsupportedLayer(f"{target.key}: no derivatives by this parameter: {why}")
        if tensor.is_inference():
            raise UnsupportedLayer(
                f"{target.key}: made in inference mode, it takes no gradient; load the model outside of it"
            )


@contextmanager
def still(model: nn.Module, targets: list[Target]) -> Iterator[None]:
    """Run a block in eval mode, without autocast, with gradients by what moves alone; all flags are given back.

    Raises:
        UnsupportedLayer: For a layer that mixes the examples of a batch also in eval mode.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UnsupportedLayer(
                f"{name}: this {type(module).__name__} has no running statistics, so every example's output depends on "
                "the whole batch and has no derivatives of its own; set track_running_stats=True and estimate them, or "
                "replace it"
            )
    wanted = {id(t) for target in targets for t in (*target.tensors, *target.moving.values())}
    every = {id(p): p for p in model.parameters()}
    every |= {id(t): t for target in targets for t in target.tensors}
    before = [(p, p.requires_grad) for p in every.values() if not p.is_inference()]
    device = next((t.device.type for target in targets for t in target.tensors), "cpu")
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        off = torch.autocast(device, enabled=False)
        with kept_modes(model), torch.inference_mode(False), torch.enable_grad(), off:
            yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
