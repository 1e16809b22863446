"""Adapter: a model with trainable terms beside it. The model's own tensors are never written to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.freeze import Freeze
from dtheta.adapt.grafts import GraftLink, by_kind
from dtheta.adapt.grafts import connect as connect_graft
from dtheta.adapt.method import Method
from dtheta.adapt.names import module_name, parameter_name
from dtheta.adapt.parametrization import is_covered
from dtheta.adapt.prompts.image_names import is_mixed
from dtheta.adapt.prompts.sources import Vectors
from dtheta.adapt.prompts.tower_wiring import TowerLink
from dtheta.adapt.source import Source
from dtheta.adapt.term import Term
from dtheta.adapt.wiring import Link, connect, take_back
from dtheta.core.apply import original
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New
from dtheta.core.combination import add, scale
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.peft_layers import uses
from dtheta.core.provenance import Provenance
from dtheta.core.selection import Site
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from dtheta.core.tensors import base_tensors
from dtheta.errors import ConfigError, DthetaWarning, ShapeMismatch, UnknownParameter, did_you_mean


class Adapter(nn.Module):
    """A model and, beside it, the trainable terms of one method.

    Calling the adapter calls the model, whose output now includes the terms; so does calling the model itself. The
    adapter reads like the model: attributes that it does not have are the model's.

    Attributes:
        model: The base. Its parameters are frozen while anything is attached, and their flags restored after.
        terms: Trainable terms, by site; new vectors (prompts) among them, by name.
        method: The method that made them.
        weight: Factor with which the displacement counts; 1 by default.
        enabled: False switches the displacement off.
    """

    model: nn.Module
    terms: nn.ModuleDict

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, Site],
        terms: Mapping[str, Term],
        method: Method,
        *,
        grafts: Mapping[str, Term] | None = None,
        weight: float = 1.0,
        origin: Delta | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        grafts = dict(grafts or {})
        self.terms = nn.ModuleDict({module_name(key): term for key, term in {**terms, **grafts}.items()})
        self.method = method
        self.weight = weight
        self.enabled = True
        self.settings = dict(settings or {})
        self.seed = seed
        self._sites = dict(sites)
        self._grafts = tuple(grafts)
        self._entering = by_kind(grafts)  # what the links read
        self._beside: tuple[str, ...] = ()
        self._origin = origin
        self._attached = True
        self._links: list[Link | GraftLink] = []
        self._freeze = Freeze(model)
        try:
            for key, site in self._sites.items():
                term, device = self.term(key), site.tensor.device
                held = [t for t in (*term._parameters.values(), *term._buffers.values()) if t is not None]
                if term._modules or any(t.device != device for t in held):  # asking is cheaper than moving
                    term.to(device)
                self._links += connect(site, Source(term, site.window, self._effective_weight))
            for entering in self._entering:
                link = connect_graft(model, entering, self._effective_weight)
                self._beside += link.beside
                self._links.append(link)
        except Exception:
            self.detach()
            raise

    def _effective_weight(self) -> float:
        return self.weight if self.enabled else 0.0

    def term(self, key: str) -> Term:
        """Return the term of a site, or a new vector by its name.

        Raises:
            UnknownParameter: If nothing is attached there.
        """
        if key not in self._sites and key not in self._grafts:
            known = [*self._sites, *self._grafts]
            raise UnknownParameter(f"nothing is attached to {key!r}{did_you_mean(key, known)}")
        return self.terms[module_name(key)]  # type: ignore[return-value]

    @property
    def attached(self) -> bool:
        """Whether the terms are on the model; False after ``detach``."""
        return self._attached

    @property
    def sites(self) -> Mapping[str, Site]:
        """The sites by key, in the order of the model."""
        return self._sites

    @property
    def grafts(self) -> tuple[str, ...]:
        """The names of the vectors that the base does not have."""
        return self._grafts

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):  # how the model copies itself is no way to copy the adapter
                raise
            return getattr(self.model, name)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by name: site, then factor."""
        return {parameter_name(name): p for name, p in self.terms.named_parameters() if p.requires_grad}

    @contextmanager
    def disabled(self) -> Iterator[nn.Module]:
        """Run a block with the plain base; the flag is what it was after it, also when the block raises."""
        before, self.enabled = self.enabled, False
        try:
            yield self.model
        finally:
            self.enabled = before

    @contextmanager
    def showing(self, vectors: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
        """Run a block in which the model sees these tensors in place of new vectors that are attached, by name.

        They come as parameters on the same memory, by which a loss can be differentiated. What is attached is not
        touched, and counts again after the block, also when the block raises.

        Raises:
            UnknownParameter: If no new vector of that name is attached.
            ShapeMismatch: If it has another shape.
        """
        for name, values in vectors.items():
            if (shape := tuple(self.term(name).matrix().shape)) != tuple(values.shape):
                raise ShapeMismatch(f"{name}: {shape} is attached, and {tuple(values.shape)} is to be shown there")
        before, shown = [dict(e) for e in self._entering], {name: Vectors(values) for name, values in vectors.items()}
        try:
            for entering in self._entering:
                entering |= {name: term for name, term in shown.items() if name in entering}
            yield {name: term.values for name, term in shown.items()}
        finally:
            for entering, terms in zip(self._entering, before, strict=True):
                entering |= terms

    def delta(self) -> Delta:
        """Return what the terms add to the original base, and new vectors; no further training reaches it.

        Its fingerprint has no root where some tensor of the base, touched or not, cannot be read (see ``fingerprint``).
        Gradients at terms that still add nothing get a warning: the optimizer may have had other parameters.

        Raises:
            ConfigError: If a parameter got another parametrization after attach, which hides it under another name.
        """
        for site in self._sites.values():
            if any(is_covered(owner.module, owner.attribute) for owner in site.owners):
                raise ConfigError(
                    f"{site.name}: this parameter got another parametrization after attach, so it is no longer the "
                    "base that a delta could name; remove that one first, or call delta() before it is put on"
                )
        self._warn_if_idle()
        parts: dict[str, list[Change]] = {}
        for key, site in self._sites.items():
            parts.setdefault(site.name, []).append(_placed(self.term(key).change(), site))
        parts |= {name: [self.term(name).change()] for name in self._grafts}
        changes = {name: scale(add(found), self.weight) for name, found in parts.items()}
        changes = {name: change.map(lambda t: t.to("cpu")) for name, change in changes.items()}
        return Delta(changes, self._fingerprint(list(changes)), self._made(list(changes)))

    def _warn_if_idle(self) -> None:
        """Warn where gradients arrived and no term adds anything: they were not what the optimizer had."""
        if self._grafts or not any(p.grad is not None and bool(p.grad.any()) for p in self.terms.parameters()):
            return  # new vectors do not start at zero
        with torch.no_grad():
            idle = all(self.term(key).is_zero() for key in self._sites)
        if idle:
            warnings.warn(
                "gradients reached this adapter, and all that it adds is still zero: an optimizer trains it by "
                "adapter.trainable().values(), not by model.parameters(); transformers' Trainer by model=adapter and "
                "dt.trainer_callback(adapter)",
                DthetaWarning,
                stacklevel=3,
            )

    def folded(self) -> Delta:
        """Return a delta that does the same, without the networks that make vectors: of UPT, the vectors that come out.

        It trains on as plain vectors, where ``delta()`` keeps the networks. Of other methods it is ``delta()``.

        Raises:
            ConfigError: If the vectors depend on the input, as CoCoOp's do, or the adapter is detached.
        """
        if not self._attached:
            raise ConfigError("this adapter is detached; fold it before, or attach its delta and fold that")
        delta = self.delta()
        link = next((link for link in self._links if isinstance(link, TowerLink)), None)
        if link is None:
            return delta
        made = {name: New(values.to("cpu")) for name, values in link.constants(self.weight).items()}
        if not any(is_mixed(name) for name in self._grafts):
            return delta
        rest = {name: change for name, change in delta.changes.items() if name not in self._grafts}
        settings, task = delta.provenance.settings, delta.provenance.task
        provenance = Provenance("fold", {}, [delta.digest], settings, self.seed, task)
        return Delta({**rest, **made}, delta.base, provenance)

    def _fingerprint(self, names: list[str]) -> Fingerprint:
        """Return the digests of what is touched, as what new vectors stand beside is: embeddings, or a layer."""
        whole = fingerprint({name: original(t) for name, t in base_tensors(self.model).items()})
        return whole.restrict([*names, *self._beside])

    def _made(self, names: list[str]) -> Provenance:
        parents = [self._origin.digest] if self._origin is not None else []
        task = self._origin.provenance.task if self._origin is not None else {}
        settings = {**self.settings, "uses": uses(self.model, [name for name in names if name not in self._grafts])}
        return Provenance("train", self.method.to_dict(), parents, settings, self.seed, task)

    def detach(self) -> nn.Module:
        """Take every term off the model and give its parameters their flags back; return the model."""
        if not self._attached:
            raise ConfigError("this adapter is detached already")
        take_back(self._links)
        self._freeze.thaw(self.model)
        self._attached = False
        return self.model


def _placed(change: Change, site: Site) -> Change:
    """Return the change of a site's matrix as one of the whole parameter."""
    shape = tuple(site.tensor.shape)
    if site.window is not None:
        return Block(change, site.window.axis, site.window.start, shape)
    if isinstance(change, Spectral):
        return Spectral(change.shift, shape, change.left, change.right, change.probe)
    if isinstance(change, LowRank):
        return LowRank(change.left, change.right, change.core, shape)
    if isinstance(change, Stacked):
        return Stacked(change.left, change.right, change.core, shape)
    if isinstance(change, Dense):
        return Dense(change.values.reshape(shape))
    return change
