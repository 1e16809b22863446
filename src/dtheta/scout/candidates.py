"""Candidates: the methods to compare, as terms that no model carries.

A method that displaces weights is asked for its terms at its sites, and nothing is attached. One that brings vectors of
its own (prompts, inserted modules) has no place in the plain network's derivatives; it is attached for a pass of its
own. Deltas are candidates too: their coefficients, one for each parameter of each delta, are what trains (aTLAS, Zhang
et al. 2024, arXiv 2407.02880).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from dtheta.adapt.classify import selection
from dtheta.adapt.method import Method, check_weight
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.registry import method_class
from dtheta.adapt.requirements import require_rank
from dtheta.adapt.term import Term
from dtheta.core.apply import bind
from dtheta.core.arguments import is_number
from dtheta.core.change import Change
from dtheta.core.delta import Delta
from dtheta.core.selection import Site
from dtheta.core.selection import select as select_sites
from dtheta.core.selection import sites as all_sites
from dtheta.core.tensors import canonical_names
from dtheta.errors import ConfigError, DthetaError, UnsupportedLayer
from dtheta.models.classifier import Classifier
from dtheta.scout.scouting import Refused

#: What a user names: a method, its name, either with a selection, or deltas whose coefficients train.
Entry: TypeAlias = Method | str | tuple[Method | str, str | None] | Sequence[Delta]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method, where it trains, and what moves there.

    Attributes:
        name: How it is called in the table.
        method: The method, or None for coefficients of deltas.
        select: Selection as given.
        sites: Where weights are displaced, by key.
        terms: What displaces them, by key.
        directions: For coefficients of deltas: the changes of each site's parameter.
        units: By site, what ``derivatives.units_of`` found; filled as it is asked for.
    """

    name: str
    method: Method | None
    select: str | None
    sites: Mapping[str, Site] = field(default_factory=dict)
    terms: Mapping[str, Term] = field(default_factory=dict)
    directions: Mapping[str, Sequence[Change]] = field(default_factory=dict)
    units: dict[str, list[float]] = field(default_factory=dict)

    @property
    def attached(self) -> bool:
        """Whether it takes a pass of its own, attached to the model."""
        return self.method is not None and self.method.new_vectors


def candidates_of(
    model: nn.Module, methods: Iterable[Entry], head: str, seed: int
) -> tuple[list[Candidate], list[Refused]]:
    """Return the candidates, and those that the model cannot have with the reason.

    Args:
        model: The network.
        methods: What the user named.
        head: Name of the head, whose parameters train in full beside every method.
        seed: Of the methods' random starts.

    Raises:
        ConfigError: For an unknown method, an entry that is none, a candidate named twice, or none at all.
    """
    found: list[Candidate] = []
    refused: list[Refused] = []
    for name, source, select in entries_of(methods):
        try:
            found.append(_of_method(model, name, source, select, head, seed) if isinstance(source, Method)
                         else _of_deltas(model, name, source, head))  # fmt: skip
        except DthetaError as error:
            refused.append(Refused(name, str(error)))
    return found, refused


def require_candidates(model: nn.Module, methods: Iterable[Entry], head: str) -> list[Refused]:
    """Return the methods that a model cannot have, as far as names and shapes tell; weights are not looked at.

    Args:
        model: The network, or its outline on the meta device.
        methods: What the user named; deltas are let pass.
        head: Name of the head.

    Raises:
        ConfigError: As ``candidates_of``; if the model can have none of them.
    """
    refused: list[Refused] = []
    entries = entries_of(methods)
    for name, source, select in entries:
        try:
            if isinstance(source, Method):
                require_rank(source, _sites_of(model, source, select, head))
        except DthetaError as error:
            refused.append(Refused(name, str(error)))
    if len(refused) == len(entries):
        raise none_left(refused)
    return refused


def none_left(refused: Iterable[Refused]) -> ConfigError:
    """Return the error of a model that can have none of the methods."""
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in refused)
    return ConfigError(f"none of the methods can be scouted on this model: {reasons}")


def entries_of(methods: Iterable[Entry]) -> list[tuple[str, Method | list[Delta], str | None]]:
    """Return name, source and selection of each of what the user named.

    Raises:
        ConfigError: As ``candidates_of``.
    """
    entries = [_entry(entry) for entry in methods]
    if not entries:
        raise ConfigError("no methods were given; expected some, such as methods=[dt.LoRA(rank=8), dt.BitFit()]")
    names = [name for name, _, _ in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{twice} is given twice; what is compared must differ in fields or selection")
    return entries


def label(method: Method, select: str | None) -> str:
    """Return the name of a method in a table: with the fields that are not as by default, and where it trains."""
    differ = [
        f"{f.name}={getattr(method, f.name)!r}"
        for f in dataclasses.fields(method)
        if getattr(method, f.name) != f.default or f.name == "rank"
    ]
    name = method.name + (f"({', '.join(differ)})" if differ else "")
    return name if select is None else f"{name} on {select}"


def _entry(entry: Any) -> tuple[str, Method | list[Delta], str | None]:
    """Return the name, source and selection of what the user named."""
    select = None
    if isinstance(entry, tuple) and len(entry) == 2 and not isinstance(entry[0], Delta):
        entry, select = entry
    if isinstance(entry, str):
        entry = method_class(entry)()
    if isinstance(entry, Method) and (select is None or isinstance(select, str)):
        return label(entry, select), entry, select
    if isinstance(entry, Sequence) and entry and all(isinstance(one, Delta) for one in entry):
        return f"coefficients of {len(entry)} deltas", list(entry), None
    kind = "a number" if is_number(entry) else f"a {type(entry).__name__}"
    raise ConfigError(
        f"{kind} among the methods; expected a method such as dt.LoRA(rank=8), its name, a pair (method, select), or a "
        "list of deltas whose coefficients would train"
    )


def _of_method(model: nn.Module, name: str, method: Method, select: str | None, head: str, seed: int) -> Candidate:
    chosen = _sites_of(model, method, select, head)
    for site in chosen:
        check_weight(site, finite=False)
    return Candidate(name, method, select, {site.key: site for site in chosen}, method.terms(chosen, seed))


def _sites_of(model: nn.Module, method: Method, select: str | None, head: str) -> list[Site]:
    """Return the weights that a method displaces, without the head's; none of one that brings vectors of its own."""
    method.require_selectable(select)
    if method.new_vectors:
        method.require(model, select)
        return []
    pattern = selection(model, Recipe(method, select)) if isinstance(model, Classifier) else select
    pattern = pattern if pattern is not None else method.default_select
    chosen = [site for site in select_sites(model, pattern, matrices=method.matrices) if not _in_head(site, head)]
    if not chosen:
        raise ConfigError(f"the selection takes nothing but the head {head!r}, which trains beside every method")
    return chosen


def _of_deltas(model: nn.Module, name: str, deltas: list[Delta], head: str) -> Candidate:
    table, canonical = all_sites(model), canonical_names(model)
    sites: dict[str, Site] = {}
    directions: dict[str, list[Change]] = {}
    for delta in deltas:
        for parameter, change in bind(delta, model).changes.items():
            key = canonical[parameter]
            if key not in table:
                raise UnsupportedLayer(f"{parameter}: this is a buffer, which has no derivatives")
            if not _in_head(table[key], head):
                sites[key] = table[key]
                directions.setdefault(key, []).append(change)
    if not sites:
        raise ConfigError(f"the deltas change nothing but the head {head!r}, which trains beside every method")
    return Candidate(name, None, None, sites, {}, directions)


def _in_head(site: Site, head: str) -> bool:
    return site.name.startswith(f"{head}.")
