"""attach: put a method, or a delta, on a model without touching the model.

    output = base output + weight * (displacement applied to the inputs)

``attach(model, PiSSA(rank=16))`` starts training; ``attach(model, delta)`` continues it, or runs a delta unmerged.
Several adapters on one model add up, each with its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.fields import finite_number, plain
from dtheta.adapt.full import Full
from dtheta.adapt.grafts import is_graft
from dtheta.adapt.grafts import restored as restored_graft
from dtheta.adapt.method import Method, check_weight, method_from_dict
from dtheta.adapt.term import Term
from dtheta.core.apply import bind, originals
from dtheta.core.arguments import require_flag
from dtheta.core.block import Block
from dtheta.core.change import Change
from dtheta.core.combination import Scaled, Sum
from dtheta.core.delta import Delta, total
from dtheta.core.selection import Site, Window, windows
from dtheta.core.selection import select as select_sites
from dtheta.core.selection import sites as all_sites
from dtheta.core.tensors import all_finite, canonical_names
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer


def attach(
    model: nn.Module,
    source: Method | Delta | Sequence[Delta],
    select: str | None = None,
    *,
    also: str | None = None,
    weight: float = 1.0,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    strict: bool = True,
) -> Adapter:
    """Attach a method or deltas to a model; no output changes before training and no base tensor ever.

    The output of a prompt does change at once: virtual tokens are seen from the start, whatever they hold.

    Two things are beyond that. Behind a linear layer, an output that is infinite because an input is becomes NaN, since
    the term multiplies that input by zero. And torch multiplies in another order where a weight wants no gradient, so
    outputs may differ in their last bits from those before the freeze, as they do after ``requires_grad_(False)``.

    Args:
        model: Any module; it is frozen while anything is attached.
        source: A method to train, a delta to run or to train on, or several deltas to run as their weighted sum.
        select: Which parameters a method moves, or which layers its networks stand behind (see ``core.selection``);
            not for deltas and prompts.
        also: Further parameters, such as ``"head.*"``, that train in full beside the method.
        weight: Factor of the whole displacement.
        weights: One factor for each of several deltas; ones by default.
        seed: Key of every random start.
        strict: Whether a delta must have been made on this very base.

    Returns:
        The adapter: a module with ``.delta()``, ``.detach()``, ``.trainable()``.

    Raises:
        BaseMismatch: If a delta was made on another base.
        ConfigError: For a selection that takes nothing, or a rank that does not fit.
        UnsupportedLayer: For a parameter that the method cannot move, or a model that a prompt cannot enter.
        ShapeMismatch: If a prompt was made for a model of another width.
        NonFinite: If a weight to be factored, or a delta, holds NaN or infinity.
    """
    weight, seed = finite_number(weight, "weight"), plain(seed, int, "seed")
    require_flag(strict, "strict")
    if isinstance(model, Adapter):
        raise ConfigError("attach to the model, not to its adapter: dt.attach(adapter.model, ...)")
    if isinstance(source, Method):
        if weights is not None:
            raise ConfigError("weights go with a list of deltas; a method takes weight=...")
        return _attach_method(model, source, select, also, weight, seed)
    if select is not None or also is not None:
        raise ConfigError("select and also go with a method; use delta.restrict(pattern) for a part of a delta")
    return _attach_delta(model, _one(source, weights), weight, strict, seed)


def _one(source: Delta | Sequence[Delta], weights: Sequence[float] | None) -> Delta:
    """Return the weighted sum of one or several deltas."""
    if isinstance(source, Delta):
        if weights is not None:
            raise ConfigError("weights go with a list of deltas; one delta takes weight=...")
        return source
    deltas = list(source) if isinstance(source, Sequence) else []
    if not deltas or not all(isinstance(d, Delta) for d in deltas):
        raise ConfigError(f"expected a method, a delta or a list of deltas, found {source!r}")
    factors = [1.0] * len(deltas) if weights is None else [finite_number(w, "a factor in weights") for w in weights]
    if len(factors) != len(deltas):
        raise ConfigError(f"{len(deltas)} deltas but {len(factors)} weights")
    return total([w * d for w, d in zip(factors, deltas, strict=True)])


def _attach_method(
    model: nn.Module, method: Method, select: str | None, also: str | None, weight: float, seed: int
) -> Adapter:
    method.require_selectable(select)
    pattern = select if select is not None else method.default_select
    full = select_sites(model, also, matrices=False) if also is not None else []
    taken = {site.name for site in full}
    found = [] if method.new_vectors else select_sites(model, pattern, matrices=method.matrices)
    chosen = [site for site in found if site.name not in taken]
    for site in [*chosen, *full]:
        check_weight(site, finite=False)
    grafts = method.grafts(model, seed, select)
    terms = method.terms(chosen, seed) | Full().terms(full, seed)
    settings = {key: text for key, text in (("select", pattern), ("also", also)) if text is not None}
    sites = {site.key: site for site in [*chosen, *full]}
    return Adapter(model, sites, terms, method, grafts=grafts, weight=weight, settings=settings, seed=seed)


def _attach_delta(model: nn.Module, delta: Delta, weight: float, strict: bool, seed: int) -> Adapter:
    if not len(delta):
        raise ConfigError("this delta changes nothing, so there is nothing to attach")
    if new := next((name for name in delta.new if not is_graft(name)), None):
        raise UnsupportedLayer(f"{new}: this delta brings a new vector, and the model has no place for it")
    if strict and delta.new:  # they touch no tensor, but stand beside some
        delta.base.check(originals(model))
    bound = bind(delta, model, strict=strict)
    _check_finite(bound.changes)
    method = _method_of(delta)
    table, canonical = all_sites(model), canonical_names(model)
    found: dict[str, Site] = {}
    terms: dict[str, Term] = {}
    grafts = {name: restored_graft(name, change) for name, change in bound.new.items()}
    for name, change in bound.changes.items():
        if name in grafts:
            continue
        if canonical[name] not in table:
            raise UnsupportedLayer(f"{name}: this is a buffer, which nothing can be attached to; use dt.applied")
        for site, part in _parts(table[canonical[name]], change):
            check_weight(site, finite=False)
            found[site.key] = site
            terms[site.key] = method.restore(site, part)
    return Adapter(model, found, terms, method, grafts=grafts, weight=weight, origin=delta, seed=seed)


def _check_finite(changes: Mapping[str, Change]) -> None:
    for name, change in changes.items():
        if not all(all_finite(tensor) for tensor in change.tensors().values()):
            raise NonFinite(
                f"{name}: the delta holds NaN or infinity, from a training that diverged or a damaged tensor; attach "
                "one from before, or the rest of it with delta.restrict(pattern)"
            )


def _method_of(delta: Delta) -> Method:
    """Return the method that trained a delta, or the plain one for deltas made otherwise."""
    record: Any = delta.provenance.method
    return method_from_dict(record) if record.get("name") else Restored()


class Restored(Method):
    """The method of deltas that no method of ours trained: every change trains in the form it has."""

    def to_dict(self) -> dict[str, Any]:
        """Return nothing: there is no method to record."""
        return {}


def _parts(site: Site, change: Change) -> list[tuple[Site, Change]]:
    """Cut a change into one per site: blocks of a fused projection become windows where they do not overlap."""
    factor, inner = (change.factor, change.term) if isinstance(change, Scaled) else (1.0, change)
    blocks = list(inner.terms) if isinstance(inner, Sum) else [inner]
    if not all(isinstance(b, Block) for b in blocks) or factor != 1.0:
        return [(site, change)]
    cuts = [(b.axis, b.start, b.stop) for b in blocks if isinstance(b, Block)]
    if len(set(cuts)) != len(cuts) or len({axis for axis, _, _ in cuts}) != 1:
        return [(site, change)]
    labels = _labels(site)
    return [(_cut(site, b, labels), b.term) for b in blocks if isinstance(b, Block)]


def _labels(site: Site) -> dict[tuple[int, int, int], str]:
    """Return q, k and v by axis, start and stop; empty where the parameter is no fusion of three equal parts."""
    try:
        parts = windows(site, "qkv")
    except UnsupportedLayer:
        return {}
    return {(w.axis, w.start, w.stop): w.label for part in parts if (w := part.window) is not None}


def _cut(site: Site, block: Block, labels: Mapping[tuple[int, int, int], str]) -> Site:
    label = labels.get((block.axis, block.start, block.stop), f"{block.start}:{block.stop}")
    return replace(site, window=Window(block.axis, block.start, block.stop, label))
