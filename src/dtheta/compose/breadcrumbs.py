"""Breadcrumbs: drop the largest entries of a vector as well as the smallest, and sum.

    kept   ranks top + 1 ... top + k by magnitude, the largest first
    top    = floor(gamma N + 0.5),   k = floor(density N + 0.5), at least 1
    y      = sum_i w_i (what is kept of x_i)

Davari and Belilovsky 2023, arXiv 2312.06795, of each tensor, as there: outliers are noise as small entries are. Here
``gamma`` is the share dropped at the top and ``density`` the share kept, as in mergekit; the paper's masks keep what
lies between two quantiles. Where ``gamma N`` rounds to 0 nothing is dropped at the top, and this is plain trimming;
mergekit then keeps nothing at all, since its slice from the end by -0 is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

from dtheta.compose.arguments import checked, choose, each, weights_of
from dtheta.compose.election import Divide, Elect, Then, election_if, settled
from dtheta.compose.entrywise import by_name
from dtheta.compose.windows import Per, windows
from dtheta.core.change import Change
from dtheta.core.delta import Delta, derived
from dtheta.errors import ConfigError


def breadcrumbs(
    deltas: Delta | Sequence[Delta],
    density: float | Sequence[float] = 0.9,
    weights: float | Sequence[float] | None = None,
    *,
    gamma: float | Sequence[float] = 0.01,
    per: Per = "tensor",
    then: Then = "sum",
    elect: Elect = "total",
    divide: Divide = "count",
) -> Delta:
    """Return the merge of deltas of one base without their largest and smallest entries; of one, that delta.

    Args:
        deltas: n deltas, or one; spectral changes must be bound.
        density: Share of entries that is kept, in (0, 1]; one for all, or n.
        weights: One number a delta; ones by default.
        gamma: Share of entries, the largest, that is dropped, in [0, 1); with the density at most 1.
        per: Of what the shares are: "tensor", or "delta" (all entries together).
        then: Whether what is kept is summed ("sum") or merged by elected signs ("ties").
        elect: With "ties": as in ``ties``.
        divide: With "ties": as in ``ties``.

    Returns:
        The merge: ternary terms of ternary changes, dense ones of others. The settings in its provenance are the
        arguments that make the same bits of the same parents again.

    Raises:
        ConfigError: If there are no deltas, they change nothing, a spectral change is not bound, or an argument cannot
            be meant.
        BaseMismatch: If deltas were made on different bases.
        ShapeMismatch: If they disagree on a shape.
        UnsupportedLayer: If one brings new vectors (heads, prompts).
        NonFinite: If an entry or a weight is NaN or infinite; the message says where.
    """
    deltas, base = checked(deltas)
    choose(per, ("delta", "tensor"), "per")
    densities, gammas = each(density, len(deltas), "densities"), each(gamma, len(deltas), "gammas")
    for d, g in zip(densities, gammas, strict=True):
        if not (0 <= g < 1 and d + g <= 1 + 1e-12):
            raise ConfigError(
                f"density={d} and gamma={g} cannot be meant together: gamma, in [0, 1), is dropped at the top, and "
                "density is kept of the rest, so that both are 1 at most"
            )
    found = weights_of(weights, len(deltas))
    rules = election_if(then, found, elect, divide)
    sieves = windows(deltas, per, densities, gammas)

    def merged(name: str, changes: dict[int, Change]) -> Change:
        return settled(changes, [sieves.of(i, name) for i in changes], found, rules)

    settings = {"density": densities, "gamma": gammas, "weights": found, "per": per, "then": then, "elect": elect}
    return Delta(by_name(deltas, merged), base, derived("breadcrumbs", deltas, **settings, divide=divide))
