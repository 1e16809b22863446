"""The second half of TIES: an elected sign for each entry, and the mean of the vectors that have it.

    x_i   = w_i times the trimmed vector i
    e     = +1 if sum_i x_i >= 0 else -1               elect="total"
    e     = +1 if #{x_i > 0} >= #{x_i < 0} else -1     elect="count"
    y     = factor * sum_{i: e x_i > 0} x_i / d        0 where no entry agrees
    d     = #{i: e x_i > 0}                            divide="count"
    d     = sum_{i: e x_i > 0} w_i                     divide="weights"; of magnitude below 1e-8 it counts as 1
    d     = 1                                          divide=None

Yadav et al. 2023, arXiv 2306.01708. Entry by entry in float64, in the order of the vectors, rounded once.

A weight that all vectors of a parameter share is taken out of the sums, which then are exact for float32 entries: equal
and opposite entries are a tie, which elects the positive sign, whatever the weight. mergekit multiplies it in, and
rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dtheta.compose.arguments import choose
from dtheta.compose.entrywise import Term, joined, summed
from dtheta.compose.sieves import Sieve, loops
from dtheta.core.arguments import coefficient
from dtheta.core.change import Change
from dtheta.core.plane_numpy import SMALLEST
from dtheta.errors import ConfigError

Elect = Literal["total", "count"]
Then = Literal["sum", "ties"]
Divide = Literal["count", "weights"] | None


@dataclass(frozen=True, eq=False)
class Election:
    """Rules of a merge by elected signs.

    Attributes:
        elect: By what the sign is elected.
        divide: By what the sum of the agreeing entries is divided.
        factor: Multiplies the result.
        weights: w_i.
    """

    elect: Elect
    divide: Divide
    factor: float
    weights: tuple[float, ...]

    def of(self, members: Sequence[int]) -> Election:
        """Return the rules for some of the vectors, what their weights share moved into the factor."""
        weights, factor = [self.weights[i] for i in members], self.factor
        tiny = self.divide == "weights" and abs(weights[0]) < SMALLEST  # where the divisor may count as 1
        if len(set(weights)) == 1 and weights[0] and not tiny:
            factor = factor if self.divide == "weights" else factor * abs(weights[0])
            weights = [math.copysign(1.0, weight) for weight in weights]
        return Election(self.elect, self.divide, factor, tuple(weights))

    def join(self, x_MB: NDArray[np.float64], out: NDArray[Any]) -> None:
        """Write the merge of M weighted vectors to ``out`` (B,)."""
        loops().consensus(x_MB, self.elect == "count", self.shares, self.factor, out)

    @property
    def shares(self) -> NDArray[np.float64]:
        """What each agreeing vector adds to the divisor (M,)."""
        count = len(self.weights)
        return {"count": np.ones(count), "weights": np.array(self.weights, np.float64), None: np.zeros(count)}[
            self.divide
        ]


def election(weights: Sequence[float], elect: Elect, divide: Divide, factor: float) -> Election:
    """Return the rules for vectors of these weights.

    Raises:
        ConfigError: If a rule is not known.
        NonFinite: If the factor is not finite.
    """
    choose(elect, ("total", "count"), "elect")
    choose(divide, ("count", "weights", None), "divide")
    return Election(elect, divide, coefficient(factor, "factor"), tuple(weights))


def election_if(then: Then, weights: Sequence[float], elect: Elect, divide: Divide) -> Election | None:
    """Return the rules where the kept entries are merged by elected signs, None where they are summed.

    Raises:
        ConfigError: If an option is not known, or one of an election comes with a sum.
    """
    choose(then, ("sum", "ties"), "then")
    if then == "sum" and (elect, divide) != ("total", "count"):
        raise ConfigError(f"elect={elect!r} and divide={divide!r} mean nothing for a sum; pass then='ties' with them")
    return None if then == "sum" else election(weights, elect, divide, 1.0)


def settled(
    changes: Mapping[int, Change],
    sieves: Sequence[Sieve],
    weights: Sequence[float],
    rules: Election | None,
    scales: Sequence[float] | None = None,
) -> Change:
    """Return the sum or the elected merge of what the sieves leave of the changes of one parameter.

    Args:
        changes: By the number of the vector.
        sieves: One a change.
        weights: One a vector.
        rules: None for the sum.
        scales: Multiples of the kept entries, one a change; ones by default.
    """
    members = list(changes)
    chosen = rules.of(members) if rules is not None else None
    factors = [weights[i] for i in members] if chosen is None else chosen.weights
    multiples = [w * s for w, s in zip(factors, scales or [1.0] * len(members), strict=True)]
    terms = [Term(c, s, m) for c, s, m in zip(changes.values(), sieves, multiples, strict=True)]
    return summed(terms) if chosen is None else joined(terms, chosen.join)
