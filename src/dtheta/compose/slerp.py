"""SLERP: the way from one vector to another that turns at an even pace.

    omega  = angle between x and y                          cos omega = <x, y> / (|x| |y|)
    z(t)   = (sin((1 - t) omega) x + sin(t omega) y) / sin omega

Shoemake 1985, for vectors of any length: x at t = 0 and y at t = 1, and for equal lengths a point of their circle. x
and y are the deltas themselves, seen from their base, or the points ``base + delta``, seen from zero, as mergekit has
it; there, with coefficients p and q of the points, the displacement from the base is

    delta = p a + q b + (p + q - 1) base

Deltas are combined by their coefficients, so that low-rank stays low-rank and nothing is rounded; the multiple of the
base is dense. Angles come from exact inner products of the changes as they are.

Where sin omega < ``parallel`` the formula divides by next to nothing: for vectors in one direction it then is the
straight line within omega^2, for opposite ones it has no limit. There, and where a vector is zero, the straight line
``(1 - t) x + t y`` is taken, and the provenance says of what and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from dtheta.compose.arguments import all_finite, choose
from dtheta.compose.coefficients import blocks
from dtheta.compose.compose import compose
from dtheta.compose.windows import Per
from dtheta.core.apply import bind, originals
from dtheta.core.arguments import coefficient, listed, number
from dtheta.core.change import Change, Dense
from dtheta.core.combination import add, scale
from dtheta.core.delta import Delta, derived
from dtheta.core.naming import naming
from dtheta.core.products import inner
from dtheta.errors import ConfigError, NonFinite


class Arc(NamedTuple):
    """Where on the way between two vectors a point lies.

    Attributes:
        first, second: Coefficients of the two vectors.
        angle: Between them, in radians; NaN if one of them is zero.
        straight: Why the way is a straight line; empty if it is not.
    """

    first: float
    second: float
    angle: float
    straight: str


def slerp(
    a: Delta,
    b: Delta,
    t: float = 0.5,
    *,
    per: Per = "delta",
    base: nn.Module | Mapping[str, Tensor] | None = None,
    parallel: float = 1e-4,
) -> Delta:
    """Return the delta at ``t`` on the way from ``a`` to ``b``.

    Args:
        a: Where the way begins.
        b: Where it ends; a delta of the same base.
        t: From 0, which gives ``a``, to 1, which gives ``b``.
        per: Whether there is one angle for all ("delta") or one for each parameter ("tensor").
        base: Their base, to interpolate the points ``base + a`` and ``base + b`` instead; the result is still a delta.
            Angles are then those of the parameters that one of the deltas changes.
        parallel: Sine of the angle below which the way is a straight line.

    Returns:
        The delta. Its settings hold the angles, the coefficients of both by parameter, and as ``straight`` where the
        way is a straight line and why; empty if nowhere. ``slerp`` with its settings ``t``, ``per`` and ``parallel``,
        and the base if it was given, makes the same bits again.

    Raises:
        ConfigError: If ``t`` is not in [0, 1], another argument cannot be meant, or a spectral change that is not bound
            (pass ``delta.bind(model)``) meets one of another form.
        BaseMismatch: If the deltas are of different bases, or not of this one.
        ShapeMismatch, UnknownParameter: If they do not fit together, or to the base.
        UnsupportedLayer: For a new vector in one of them where the other has a parameter of that name.
        NonFinite: If a change, ``t`` or ``parallel`` is NaN or infinite; the message says which.
    """
    all_finite(listed([a, b]))
    choose(per, ("delta", "tensor"), "per")
    t, parallel = coefficient(t, "t"), number(parallel, "parallel")
    if not 0 <= t <= 1:
        raise ConfigError(f"t={t} is not on the way: it goes from 0 (the first delta) to 1 (the second)")
    if not 0 <= parallel < 1:
        raise ConfigError(f"parallel={parallel} is no sine; expected a small number such as 1e-4")
    points = {} if base is None else _base(base, a, b)
    names = blocks([a, b])
    groups = {"delta": names} if per == "delta" else {name: (name,) for name in names}
    arcs = {place: naming(place, lambda g=group: _arc(a, b, g, points, t, parallel)) for place, group in groups.items()}
    by_name = {name: arcs["delta" if per == "delta" else name] for name in names}
    sums = compose([a, b], [{n: by_name[n].first for n in a}, {n: by_name[n].second for n in b}])
    changes = _with_base(sums.changes, by_name, points)
    settings = {
        "t": t,
        "per": per,
        "of": "deltas" if base is None else "points",
        "parallel": parallel,
        "coefficients": {name: [arc.first, arc.second] for name, arc in by_name.items()},
        "angles": {place: arc.angle for place, arc in arcs.items() if not math.isnan(arc.angle)},
        "straight": {place: arc.straight for place, arc in arcs.items() if arc.straight},
    }
    digests = compose([a, b], 1.0).base if base is not None else sums.base
    return Delta(changes, digests.restrict(changes), derived("slerp", [a, b], **settings))


def _base(base: nn.Module | Mapping[str, Tensor], a: Delta, b: Delta) -> dict[str, Change]:
    """Return the base's own tensors of the parameters that one of the deltas changes."""
    for delta in (a, b):
        bind(delta, base)
    tensors = base if isinstance(base, Mapping) else originals(base)
    return {name: Dense(tensors[name].detach()) for name in blocks([a, b]) if name in tensors}


def _arc(a: Delta, b: Delta, names: Sequence[str], points: Mapping[str, Change], t: float, parallel: float) -> Arc:
    """Return the coefficients of two vectors, seen over some parameters."""
    xx, yy, xy = [], [], []
    for name in names:
        x, y = (_vector(delta, name, points) for delta in (a, b))
        xx.append(inner(x, x) if x is not None else 0.0)
        yy.append(inner(y, y) if y is not None else 0.0)
        xy.append(inner(x, y) if x is not None and y is not None else 0.0)
    squares, product = (math.fsum(xx), math.fsum(yy)), math.fsum(xy)
    if not all(map(math.isfinite, (*squares, product))):
        raise NonFinite("numbers too large for their squares, or NaN or infinity in the base, have no angle")
    return arc(squares, product, t, parallel)


def _vector(delta: Delta, name: str, points: Mapping[str, Change]) -> Change | None:
    terms = [held for held in (points.get(name), delta.changes.get(name)) if held is not None]
    return add(terms) if terms else None


def arc(squares: tuple[float, float], product: float, t: float, parallel: float) -> Arc:
    """Return the coefficients at ``t``, from the squared lengths of two vectors and their inner product."""
    lengths = math.sqrt(max(0.0, squares[0])), math.sqrt(max(0.0, squares[1]))
    if not min(lengths):
        return Arc(1.0 - t, t, math.nan, "a vector is zero and has no direction")
    cosine = max(-1.0, min(1.0, product / lengths[0] / lengths[1]))
    sine = math.sqrt((1.0 - cosine) * (1.0 + cosine))
    angle = math.atan2(sine, cosine)
    if sine < parallel:
        how = "one direction" if cosine > 0 else "opposite directions"
        return Arc(1.0 - t, t, angle, f"nearly of {how}: the sine of the angle is {sine:.3g}, below {parallel:g}")
    return Arc(math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle), angle, "")


def _with_base(sums: Mapping[str, Change], arcs: Mapping[str, Arc], points: Mapping[str, Change]) -> dict[str, Change]:
    """Return the changes with the multiple of the base that interpolating points leaves."""
    changes: dict[str, Any] = {}
    for name, way in arcs.items():
        terms = [sums[name]] if name in sums else []
        rest = way.first + way.second - 1.0
        if name in points and rest:
            terms.append(scale(points[name], rest))
        if terms:
            changes[name] = add(terms)
    return changes
