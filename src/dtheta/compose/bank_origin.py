"""Origin: the base network of a bank, the point from which its experts are displaced.

It knows which modules hold which tensor, and what each tensor's content is. A digest is taken once, and again only
after torch counted a write to the tensor, so the hundredth expert is checked against its base in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from dtheta.core import apply
from dtheta.core.apply import original, originals
from dtheta.core.change import Shape
from dtheta.core.fingerprint import Fingerprint, tensor_digests
from dtheta.core.overlap import refuse_overlap
from dtheta.core.selection import Site, sites
from dtheta.core.tensors import Owner, shared, why_unreadable, why_unwritable
from dtheta.errors import ShapeMismatch, UnknownParameter, UnsupportedLayer, did_you_mean


class Origin:
    """The tensors of a model, whatever they show just now.

    Attributes:
        model: The base.
        strict: Whether an expert's base must be, bit for bit, this one.
    """

    def __init__(self, model: nn.Module, strict: bool) -> None:
        self.model = model
        self.strict = strict
        self._digests: dict[str, tuple[Tensor, int, str]] = {}
        self._parts: list[Any] = []
        self.look()

    def look(self) -> None:
        """Find the tensors and their owners again if a module or tensor came or went: adapters do that."""
        parts = _parts(self.model)
        if len(parts) == len(self._parts) and all(a is b for a, b in zip(parts, self._parts, strict=True)):
            return
        self._parts = parts  # which keeps them alive, so that none is taken for another
        self._held = shared(self.model)
        self._canonical = {owner.name: name for name, held in self._held.items() for owner, _ in held}
        self.__dict__.pop("sites", None)

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """How the modules use the parameters, by canonical name."""
        return sites(self.model)

    def canonical(self, name: str) -> str:
        """Return the first of the names by which a tensor goes."""
        return self._canonical[name]

    def held(self, name: str) -> list[tuple[Owner, Tensor]]:
        """Return who holds a tensor, by any of its names."""
        return self._held[self._canonical[name]]

    def layer(self, name: str) -> Any:
        """Return the record of what is on a tensor just now, which ``applied`` shares with the bank.

        Raises:
            UnsupportedLayer: If the tensor cannot be changed.
        """
        held = self.held(name)
        if why := why_unreadable(held[0][1]) or why_unwritable(held[0][1]):
            raise UnsupportedLayer(f"{name}: an expert cannot be shown by this tensor: {why}")
        return apply._active.get(id(held[0][1])) or apply._Layer(name, held)

    def check(self, shapes: Mapping[str, Shape], base: Fingerprint) -> None:
        """Raise unless what changes tensors of these shapes, made on ``base``, fits.

        Raises:
            BaseMismatch: If a touched tensor has other content, and the bank is strict.
            UnknownParameter: If the model lacks one.
            ShapeMismatch: If one has another shape.
            UnsupportedLayer: If two names are one tied tensor, or one shares memory with another.
        """
        self.check_content(shapes, base)
        taken: dict[str, str] = {}
        for name, shape in shapes.items():
            if name not in self._canonical:
                near = did_you_mean(name, self._canonical)
                raise UnknownParameter(f"the expert changes {name!r}, which the base does not have{near}")
            if (found := tuple(self.held(name)[0][1].shape)) != tuple(shape):
                raise ShapeMismatch(f"{name}: the expert changes a tensor of {tuple(shape)}, the base has {found}")
            if (other := taken.setdefault(self.canonical(name), name)) != name:
                raise UnsupportedLayer(f"the expert changes both {other!r} and {name!r}, one tied tensor in this model")
        refuse_overlap(self._held, taken)

    def check_content(self, names: Iterable[str], base: Fingerprint) -> None:
        """Raise BaseMismatch unless the named tensors, as far as ``base`` knows them, have the content it says."""
        self.look()
        if not self.strict:
            return
        wanted = {name: base.digests[name] for name in names if name in base.digests}
        known = [name for name in wanted if name in self._canonical]
        found = self._digests_of(known)
        if len(known) < len(wanted) or any(found[name] != wanted[name] for name in known):
            base.check(originals(self.model), wanted)  # which says what differs

    def _digests_of(self, names: Iterable[str]) -> dict[str, str]:
        """Return the digests of tensors by name; those taken before, where nothing was written since."""
        held = {name: self.held(name)[0][1] for name in names}
        changed = {}
        for name, tensor in held.items():
            known = self._digests.get(self.canonical(name))
            if known is None or known[0] is not tensor or known[1] != _version(tensor):
                changed[name] = original(tensor)
        for name, digest in tensor_digests(changed).items() if changed else ():
            self._digests[self.canonical(name)] = held[name], _version(held[name]), digest
        return {name: self._digests[self.canonical(name)][2] for name in held}


def _parts(model: nn.Module) -> list[Any]:
    """Return all modules and tensors of a model in order: a tenth of the work of finding out who holds what."""
    return [part for m in model.modules() for part in (m, *m._parameters.values(), *m._buffers.values())]


def _version(tensor: Tensor) -> int:
    """Return how often a tensor's own content was written to, whatever it shows just now."""
    layer = apply._active.get(id(tensor))
    if layer is None:
        return apply._version(tensor)
    return next(version for held, version in zip(layer.tensors, layer.versions, strict=True) if held is tensor)
