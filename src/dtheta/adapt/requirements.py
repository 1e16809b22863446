"""What attaching a method would refuse, as far as names and shapes tell: asked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from dtheta.adapt.method import Method, check_rank
from dtheta.core.selection import Site
from dtheta.core.selection import select as select_sites


def require_sites(model: nn.Module, method: Method, select: str | None) -> None:
    """Raise unless a selection takes parameters, and the method's rank fits them; of a prompt, unless it can enter.

    Raises:
        ConfigError, UnknownParameter, UnsupportedLayer, ShapeMismatch: As ``attach``.
    """
    method.require_selectable(select)
    if method.new_vectors:
        method.require(model, select)
        return
    pattern = select if select is not None else method.default_select
    require_rank(method, select_sites(model, pattern, matrices=method.matrices))


def require_rank(method: Method, sites: Iterable[Site]) -> None:
    """Raise ConfigError unless the rank of a method, if it has one, fits the matrices at all sites."""
    rank = getattr(method, "rank", None)
    for site in sites if isinstance(rank, int) else ():
        check_rank(site, rank)  # type: ignore[arg-type]
