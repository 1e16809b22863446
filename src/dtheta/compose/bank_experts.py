"""Experts: the deltas of a bank by name, each known to fit the base, those used last in memory.

What does not fit is refused when it is added: by the header of its file, before a tensor is read. The content of the
base is compared again whenever an expert is taken, which costs microseconds unless the base was written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from dtheta.compose.bank_factors import why_not_by_row
from dtheta.compose.bank_origin import Origin
from dtheta.compose.bank_shelf import Expert, Shelf, from_delta, from_file, resident
from dtheta.core.apply import bind
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.errors import ConfigError, NonFinite


class Experts:
    """Experts of one base.

    Attributes:
        origin: The base.
        shelf: The experts, in memory or not.
    """

    def __init__(self, origin: Origin, capacity: int | None) -> None:
        self.origin = origin
        self.shelf = Shelf(capacity, self._read)

    def add(self, name: str, source: Delta | str | os.PathLike[str]) -> None:
        """Add an expert; see ``Bank.add``."""
        if not isinstance(name, str) or not name:
            raise ConfigError(f"the name of an expert is {name!r}; expected some text")
        if name in self.shelf:
            raise ConfigError(f"the bank has an expert {name!r} already; remove it first, or give another name")
        if not isinstance(source, (Delta, str, os.PathLike)):
            raise ConfigError(f"expert {name!r} is a {type(source).__name__}; expected a delta or the path of its file")
        expert = from_delta(name, source) if isinstance(source, Delta) else from_file(name, Path(source).absolute())
        self.origin.check(expert.shapes, expert.base)
        if expert.delta is not None:
            _check_finite(name, expert.delta)
            expert.delta = self._bound(expert.delta)
            expert.nbytes = resident(expert.delta)
        self.shelf.put(expert)

    def all(self, names: Sequence[str]) -> list[Delta]:
        """Return the deltas of experts, in this order.

        Raises:
            ConfigError: If that is one name, or the cap cannot hold all of them.
        """
        if isinstance(names, str):
            raise ConfigError(f"names is {names!r}; expected a list of names of experts")
        found = self.shelf.take(names)
        return [found[name] for name in names]

    def changes(self, names: Iterable[str | None]) -> dict[str | None, dict[str, Change]]:
        """Return what each expert, all of them in memory together, changes, by canonical names; the base nothing.

        Raises:
            BaseMismatch: If the base was written to since an expert was added.
            Otherwise as ``Shelf.take``.
        """
        names = list(dict.fromkeys(names))
        found = self.shelf.take([name for name in names if name is not None])
        for name in found:
            self.origin.check_content(self.shelf[name].shapes, self.shelf[name].base)
        return {name: {} if name is None else self._canonical(found[name]) for name in names}

    def together(self, names: Iterable[str | None]) -> frozenset[str | None]:
        """Return the experts whose rows may run together, and the base if there are such."""
        found = [name for name in dict.fromkeys(names) if name is not None and self.goes_by_row(name)]
        return frozenset([*found, None]) if found else frozenset()

    def goes_by_row(self, name: str) -> bool:
        """Return whether each row of a batch can pass its own copy of an expert."""
        expert = self.shelf[name]
        if expert.by_row is None:
            changes = self._canonical(self.shelf.take([name])[name])
            expert.by_row = not why_not_by_row(changes, self.origin.sites)
        return expert.by_row

    def _canonical(self, delta: Delta) -> dict[str, Change]:
        return {self.origin.canonical(name): change for name, change in delta.changes.items()}

    def _read(self, expert: Expert) -> Delta:
        try:
            delta = load(str(expert.path))
        except ConfigError as error:  # the file is gone
            raise ConfigError(f"expert {expert.name!r}: {error}") from None
        if delta.digest != expert.digest:
            raise ConfigError(
                f"expert {expert.name!r}: {expert.path} was replaced since it was added; "
                f"bank.remove({expert.name!r}), then add it again"
            )
        return self._bound(delta)

    def _bound(self, delta: Delta) -> Delta:
        """Return a delta, already known to fit, with the singular vectors of its spectral changes."""
        if any(leaf.kind == "spectral" for change in delta.changes.values() for leaf in change.leaves()):
            return bind(delta, self.origin.model, strict=False)
        return delta


def _check_finite(name: str, delta: Delta) -> None:
    for parameter, change in delta.changes.items():
        if not all(bool(torch.isfinite(tensor).all()) for tensor in change.tensors().values()):
            raise NonFinite(f"expert {name!r}: its change of {parameter} holds NaN or infinity")
