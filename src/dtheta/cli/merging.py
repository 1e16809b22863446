"""How ``dtheta compose`` makes one delta of several without learning: --by, with its own options checked first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.cli.compose import Options
    from dtheta.core.delta import Delta

By: TypeAlias = Literal["sum", "mean", "ties", "dare", "breadcrumbs", "slerp"]

ENTRYWISE = ("ties", "dare", "breadcrumbs")  # what gives dense changes

# the options of each that others do not take
_TAKES: dict[By, tuple[str, ...]] = {
    "sum": ("weight",),
    "mean": (),
    "ties": ("weight", "density"),
    "dare": ("weight", "density"),
    "breadcrumbs": ("weight", "density"),
    "slerp": ("at",),
}


def require_by(options: Options) -> None:
    """Raise unless the options fit each other and what --by does.

    Raises:
        ConfigError: Naming the option.
    """
    given = {"weight": bool(options.weight), "density": options.density is not None, "at": options.at is not None}
    for name in (name for name, there in given.items() if there and name not in _TAKES[options.by]):
        takers = ", ".join(by for by, takes in _TAKES.items() if name in takes)
        raise ConfigError(f"--{name} goes with --by {takers}; this is --by {options.by}")
    if options.by == "slerp" and len(options.deltas) != 2:
        raise ConfigError(f"--by slerp goes from one delta to another: it takes 2, found {len(options.deltas)}")
    if options.density is not None and not 0 < options.density <= 1:
        raise ConfigError(f"--density must be a share above 0 and at most 1, found {options.density:g}")
    if options.at is not None and not 0 <= options.at <= 1:
        raise ConfigError(f"--at must lie between 0, the first delta, and 1, the second, found {options.at:g}")


def merged(deltas: Sequence[Delta], options: Options) -> Delta:
    """Return the delta that --by makes.

    Raises:
        ConfigError, BaseMismatch, ShapeMismatch, UnsupportedLayer, NonFinite: As the functions.
    """
    from dtheta.compose.breadcrumbs import breadcrumbs
    from dtheta.compose.compose import compose
    from dtheta.compose.dare import dare
    from dtheta.compose.slerp import slerp
    from dtheta.compose.soups import uniform_soup
    from dtheta.compose.ties import ties

    how: dict[str, Any] = {} if options.density is None else {"density": options.density}
    weights = options.weight or None
    if options.by == "slerp":
        return slerp(deltas[0], deltas[1], 0.5 if options.at is None else options.at)
    if options.by == "mean":
        return uniform_soup(deltas)
    if options.by == "ties":
        return ties(deltas, weights=weights, **how)
    if options.by == "dare":
        return dare(deltas, weights=weights, seed=options.seed, **how)
    if options.by == "breadcrumbs":
        return breadcrumbs(deltas, weights=weights, **how)
    return compose(deltas, weights or 1.0)
