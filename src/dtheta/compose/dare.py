"""DARE: drop entries at random, rescale the rest, and sum.

    m_i,e   = 1 with probability p, else 0
    y       = sum_i w_i c_i m_i x_i                            then="sum"
    y       = elected mean of the w_i c_i m_i x_i              then="ties" (election.py; nothing is trimmed)
    c_i     = 1 / p                                            rescale="probability": the expectation is x_i
    c_i     = sum |x_i| / sum |m_i x_i|, of each tensor        rescale="l1": mergekit
    c_i     = 1                                                rescale=None

Yu, Yu, Yu, Huang and Li 2023, arXiv 2311.03099. ``density`` is p; the paper speaks of the drop rate 1 - p. Whether an
entry is kept is a function of

    seed, digest of the delta, name of the parameter, number of the entry in storage order

and of nothing else (sieves.py): a delta loses the same entries alone and among others, in any order, and whatever the
slab. Deltas that are equal, one given twice say, therefore lose the same entries; another form of the same numbers (a
dense copy of a low-rank delta) has another digest, and other draws. Both released codes draw from a global generator.

Ternary changes stay ternary. Everything else becomes dense: dropped entries leave no factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dtheta.compose.arguments import checked, choose, each, weights_of
from dtheta.compose.election import Divide, Elect, Then, election_if, settled
from dtheta.compose.entrywise import by_name, magnitude
from dtheta.compose.sieves import Draw, everything
from dtheta.core.arguments import whole
from dtheta.core.change import Change
from dtheta.core.delta import Delta, derived
from dtheta.core.naming import naming
from dtheta.core.seeds import key
from dtheta.errors import ConfigError

Rescale = Literal["probability", "l1"] | None


def dare(
    deltas: Delta | Sequence[Delta],
    density: float | Sequence[float] = 0.1,
    weights: float | Sequence[float] | None = None,
    *,
    seed: int = 0,
    rescale: Rescale = "probability",
    then: Then = "sum",
    elect: Elect = "total",
    divide: Divide = "count",
) -> Delta:
    """Return the merge of randomly thinned deltas of one base; of a single delta, the thinned delta itself.

    Args:
        deltas: n deltas, or one; spectral changes must be bound.
        density: Probability with which an entry is kept, from 2**-53 (the resolution of a draw) to 1; one for all, or
            n.
        weights: One number a delta; ones by default.
        seed: Of the draws; see the module for what else they depend on.
        rescale: What the kept entries are multiplied with: 1 / density ("probability"), what keeps the sum of
            magnitudes of each tensor ("l1"), or nothing (None).
        then: Whether the kept entries are summed ("sum") or merged by elected signs ("ties").
        elect: With "ties": as in ``ties``.
        divide: With "ties": as in ``ties``.

    Returns:
        The merge; its provenance holds the seed, and as settings the other arguments that make the same bits again.

    Raises:
        ConfigError: If there are no deltas, they change nothing, a spectral change is not bound, or an argument cannot
            be meant.
        BaseMismatch: If deltas were made on different bases.
        ShapeMismatch: If they disagree on a shape.
        UnsupportedLayer: If one brings new vectors (heads, prompts).
        NonFinite: If an entry or a weight is NaN or infinite; the message says where.
    """
    deltas, base = checked(deltas)
    densities, found = _densities(density, len(deltas)), weights_of(weights, len(deltas))
    seed = whole(seed, "seed")
    choose(rescale, ("probability", "l1", None), "rescale")
    rules = election_if(then, found, elect, divide)

    def draw(i: int, name: str) -> Draw:
        return Draw(key(seed, f"dare/{deltas[i].digest}/{name}"), densities[i])

    def merged(name: str, changes: dict[int, Change]) -> Change:
        sieves = [draw(i, name) for i in changes]
        scales = [
            naming(f"delta {i}", lambda i=i, one=one, sieve=sieve: _scale(one, sieve, densities[i], rescale))
            for (i, one), sieve in zip(changes.items(), sieves, strict=True)
        ]
        return settled(changes, sieves, found, rules, scales)

    settings = {"density": densities, "weights": found, "rescale": rescale, "then": then, "elect": elect}
    made = derived("dare", deltas, **settings, divide=divide)
    return Delta(by_name(deltas, merged), base, replace(made, seed=seed))


def _densities(density: float | Sequence[float], count: int) -> list[float]:
    densities = each(density, count, "densities")
    if not all(2.0**-53 <= one <= 1 for one in densities):
        raise ConfigError(f"density={density} cannot be meant: it is the probability to keep an entry, 2**-53 ... 1")
    return densities


def _scale(change: Change, sieve: Draw, density: float, rescale: Rescale) -> float:
    """Return the multiple of the kept entries."""
    if rescale == "probability":
        return 1.0 / density
    left = magnitude(change, sieve) if rescale == "l1" else 0.0
    return magnitude(change, everything) / left if left else 1.0
