"""Wiring: how a term reaches the output of a module whose weight is never written to.

    a forward of ours      y = x (W + w D)^T + b         where the module's own forward is the only use of its weight
    a parametrization      W + w * term.matrix()         where a module hands its weight to a function: attention
                                                         projections, convolutions, bare parameters, tied weights

The forward is set on the instance, as accelerate does; it makes one product where that is cheaper (see product.py), and
otherwise calls the layer's own and adds the term's. Neither replaces nor renames a module. torch's parametrization
shows the parameter as ``parametrizations.NAME.original`` while it is there, and gives the very same tensor back when it
goes; ``core.tensors`` reads both forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from dtheta.adapt.parametrization import AdditiveParametrization, parametrization_of, parametrized, take_off
from dtheta.adapt.product import Added, displaced
from dtheta.adapt.source import Source
from dtheta.adapt.term import prefers_matrix
from dtheta.core.replaced_forward import why_unread
from dtheta.core.selection import Site, has_plain_forward
from dtheta.core.tensors import why_unwritable
from dtheta.errors import UnsupportedLayer


class AdditiveForward:
    """The forward of a linear layer or an embedding with terms added; the terms belong to their adapters."""

    is_dtheta_term = True

    def __init__(self, module: nn.Module, kind: str, inner: Callable[..., Tensor] | None) -> None:
        self.module = module
        self.kind = kind
        self.inner = inner  # what the instance had before: accelerate's, which moves weights to their device
        self.sources: list[Source] = []
        self.plain = kind != "embedding" and inner is None and has_plain_forward(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output with every active term added."""
        active = [(source, w) for source in self.sources if (w := source.weight()) != 0.0]
        x = args[0] if args else next(iter(kwargs.values()))
        if active and self.plain and (terms := self._terms(x, active)):
            return displaced(x, self.module.weight, self.module.bias, terms, self.kind == "transposed")  # type: ignore[arg-type]
        output = self.inner(*args, **kwargs) if self.inner else type(self.module).forward(self.module, *args, **kwargs)
        for source, w in active:
            output = output + self._moved(x, source, w, output.shape[-1]).to(output.dtype)
        return output

    def _terms(self, x: Tensor, active: Sequence[tuple[Source, float]]) -> list[Added] | None:
        """Return the terms if one product with the displaced weight is possible and cheaper."""
        weight: Any = self.module.weight
        simple = type(weight) in (nn.Parameter, Tensor) and x.dtype == weight.dtype and not weight.requires_grad
        # narrower weights would round the displacement away, and transforms of torch.func need ordinary operations
        if not simple or weight.dtype not in (torch.float32, torch.float64) or not prefers_matrix(x, *weight.shape):
            return None
        if torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
            return None
        if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
            return None
        terms = [Added(t, source.window, w) for source, w in active if (t := source.term.triple()) is not None]
        same = all(term.triple.left.dtype == weight.dtype for term in terms)
        return terms if same and len(terms) == len(active) else None

    def _moved(self, x: Tensor, source: Source, w: float, width: int) -> Tensor:
        """Return what a term adds to an output of this width."""
        term = source.term
        act = {"linear": term.product, "transposed": term.transposed, "embedding": term.rows}[self.kind]
        moved = act(x) if w == 1.0 else act(x) * w
        if source.window is None:
            return moved
        return F.pad(moved, (source.window.start, width - source.window.stop))


class Link:
    """One term on one module, until it is taken away."""

    def __init__(self, module: nn.Module, attribute: str, holder: AdditiveForward | AdditiveParametrization) -> None:
        self.module = module
        self.attribute = attribute
        self.holder = holder

    def add(self, source: Source) -> Link:
        """Add a term."""
        self.source = source
        self.holder.sources.append(source)
        return self

    def remove(self) -> None:
        """Take the term away; the last one leaves the module as it was before the first."""
        self.holder.sources.remove(self.source)
        if self.holder.sources:
            return
        if isinstance(self.holder, AdditiveParametrization):
            take_off(self.module, self.attribute, self.holder)
        elif self.module.__dict__.get("forward") is self.holder:
            del self.module.__dict__["forward"]
            if self.holder.inner is not None:
                self.module.forward = self.holder.inner


def connect(site: Site, source: Source) -> list[Link]:
    """Wire a term to its site; one link for every module that holds the parameter.

    Raises:
        UnsupportedLayer: For a module that nothing beside it can add to; the message says which and why.
    """
    _refuse(site)
    if site.hookable and (not source.term.materialize or why_unwritable(site.tensor)):
        module = site.owners[0].module
        return [Link(module, "forward", _forward(module, site.kind)).add(source)]
    places = {(id(o.module), o.attribute): o for o in site.owners}.values()
    if hidden := next((o.attribute for o in places if hasattr(nn.ModuleDict, o.attribute)), None):
        raise UnsupportedLayer(
            f"{site.name}: torch keeps parametrizations by name in an nn.ModuleDict, which cannot hold {hidden!r}; "
            f"leave it out with select='...|!{site.name}', or rename the parameter"
        )
    return [Link(o.module, o.attribute, parametrized(o.module, o.attribute)).add(source) for o in places]


def take_back(links: list[Any]) -> None:
    """Remove links, the last one first, and forget them."""
    while links:
        links.pop().remove()


def _refuse(site: Site) -> None:
    for owner in site.owners:
        module, kind = owner.module, type(owner.module).__name__
        if why := why_unread(module):
            raise UnsupportedLayer(
                f"{site.name}: {why}, so nothing reads this layer; leave it out, or detach that first"
            )
        if isinstance(module, nn.RNNBase):
            raise UnsupportedLayer(
                f"{site.name}: {kind} keeps a list of its weights of its own, which nothing beside it can add to; "
                "leave it out of the selection, or train a copy of the model and dt.extract"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedLayer(f"{site.name}: nothing can be attached to a scripted module; attach, then script")
        if isinstance(module, nn.Embedding) and module.max_norm is not None:
            raise UnsupportedLayer(
                f"{site.name}: this embedding has max_norm and rewrites its own weight while it runs, so the base "
                "cannot stay as it is; set max_norm=None first"
            )
        if parametrize.is_parametrized(module, owner.attribute) and parametrization_of(module, owner.attribute) is None:
            raise UnsupportedLayer(
                f"{site.name}: {kind} already has a parametrization of another kind; remove it first"
            )


def _forward(module: nn.Module, kind: str) -> AdditiveForward:
    """Return our forward of a module, set now if there is none."""
    held = module.__dict__.get("forward")
    if not isinstance(held, AdditiveForward):
        held = module.forward = AdditiveForward(module, kind, held)
    return held
