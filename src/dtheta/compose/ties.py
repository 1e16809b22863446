"""TIES: trim every vector, elect a sign for each entry, average what agrees with it.

    trim    keep the k entries of largest magnitude, k = floor(density N + 0.5); of a whole delta, or of each tensor
    elect   e = sign of sum_i w_i x_i, + where it is 0
    merge   y = factor * mean of the w_i x_i that have sign e         (election.py)

Yadav, Tam, Choshen, Raffel and Bansal 2023, arXiv 2306.01708: density 0.2 of the whole vector, mean by count. mergekit
trims tensor by tensor and divides by the sum of the agreeing weights (``per="tensor", divide="weights"``); its and
peft's code and the released one let ties at the threshold in or out as a sort leaves them, here the first are kept.

A change is trimmed by its entries, whatever its form: peft's TIES of LoRA factors is another method, whose cross terms
belong to no task. A slab of every vector is assembled at a time. Where all changes of a parameter are ternary, nothing
is made dense before the result: planes of one scale and weight vote, and the result is ternary, entry by entry what
the formula gives; planes of different scales or weights go through core/plane_ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from dtheta.compose.arguments import checked, choose, each, weights_of
from dtheta.compose.election import Divide, Elect, Election, election
from dtheta.compose.entrywise import Term, by_name, joined, sifted
from dtheta.compose.sieves import Sieve, everything
from dtheta.compose.windows import Per, windows
from dtheta.core.change import Change, Dense, matrix_shape
from dtheta.core.delta import Delta, derived
from dtheta.core.plane_numpy import SMALLEST
from dtheta.core.plane_ties import ties_dense
from dtheta.core.plane_votes import ties as vote
from dtheta.core.ternary import Ternary, ternary
from dtheta.errors import NonFinite


def ties(
    deltas: Delta | Sequence[Delta],
    density: float | Sequence[float] = 0.2,
    weights: float | Sequence[float] | None = None,
    *,
    per: Per = "delta",
    elect: Elect = "total",
    divide: Divide = "count",
    factor: float = 1.0,
) -> Delta:
    """Return the TIES merge of deltas of one base; of a single delta, the trimmed delta.

    Args:
        deltas: n deltas, or one; spectral changes must be bound.
        density: Share of entries that trimming keeps, in (0, 1]; one for all, or n.
        weights: One number a delta, of any sign; ones by default.
        per: Of what the density is: "delta" (all entries together) or "tensor".
        elect: Whether a sign is elected by the sum of the entries or by how many have it; ties elect the positive.
        divide: By what the sum of the agreeing entries is divided: how many they are ("count"), their weights
            ("weights"), or 1 (None).
        factor: Multiplies the result (the paper's lambda).

    Returns:
        The merge: dense changes, ternary where all changes of a parameter are and share scale and weight. The settings
        in its provenance are the arguments that make the same bits of the same parents again.

    Raises:
        ConfigError: If there are no deltas, they change nothing, a spectral change is not bound, or an argument cannot
            be meant.
        BaseMismatch: If deltas were made on different bases.
        ShapeMismatch: If they disagree on a shape.
        UnsupportedLayer: If one brings new vectors (heads, prompts).
        NonFinite: If an entry, a weight or the factor is NaN or infinite; the message says where.
    """
    deltas, base = checked(deltas)
    choose(per, ("delta", "tensor"), "per")
    densities, found = each(density, len(deltas), "densities"), weights_of(weights, len(deltas))
    rules = election(found, elect, divide, factor)
    sieves = windows(deltas, per, densities)

    def merged(name: str, changes: dict[int, Change]) -> Change:
        return _merged(list(changes.values()), [sieves.of(i, name) for i in changes], rules.of(list(changes)))

    settings = {"density": densities, "weights": found, "per": per, "elect": elect, "divide": divide}
    return Delta(by_name(deltas, merged), base, derived("ties", deltas, **settings, factor=float(factor)))


def _merged(changes: Sequence[Change], sieves: Sequence[Sieve], rules: Election) -> Change:
    signs = [change for change in changes if isinstance(change, Ternary) and change.device.type == "cpu"]
    if len(signs) < len(changes):
        return joined([Term(c, s, w) for c, s, w in zip(changes, sieves, rules.weights, strict=True)], rules.join)
    kept = [one if sieve is everything else sifted(one, sieve) for one, sieve in zip(signs, sieves, strict=True)]
    scale = _shared(kept, rules)
    return _weighted(kept, rules) if scale is None else _voted(kept, rules, scale)


def _shared(kept: Sequence[Ternary], rules: Election) -> torch.Tensor | None:
    """Return the scale of the ternary result, or None where there is none.

    There is one if the entries are c or -c for all vectors, sums of c do not round, so that equal numbers of both are
    a tie, and the mean of any number of them is one number.
    """
    numbers = {(None if one.by_row else float(one.scale), w) for one, w in zip(kept, rules.weights, strict=True)}
    (scale, weight), *others = numbers
    tiny = rules.divide == "weights" and abs(weight) < SMALLEST  # then the divisor may count as 1
    if others or scale is None or not scale * weight or tiny:
        return None
    c = abs(scale * weight)
    sums = np.cumsum([c] * len(kept))
    shares = np.cumsum(np.abs(rules.shares)).tolist() if rules.divide else [1.0] * len(kept)
    if any(Fraction(total) != Fraction(c) * (i + 1) for i, total in enumerate(sums.tolist())):
        return None
    dtype = torch.float64 if any(one.dtype == torch.float64 for one in kept) else torch.float32
    sign = -1.0 if rules.divide == "weights" and weight < 0 else 1.0
    results = {
        float(torch.tensor(rules.factor * (sign * total / share), dtype=dtype))
        for total, share in zip(sums.tolist(), shares, strict=True)
    }
    number = results.pop()
    return torch.tensor(number, dtype=dtype) if not results and math.isfinite(number) else None


def _voted(kept: Sequence[Ternary], rules: Election, scale: torch.Tensor) -> Ternary:
    """Return the vote of planes of one scale and weight."""
    flipped = float(kept[0].scale) * rules.weights[0] < 0
    return ternary(vote([-one.planes if flipped else one.planes for one in kept]), scale, kept[0].full_shape)


def _weighted(kept: Sequence[Ternary], rules: Election) -> Dense:
    """Return the merge of planes of any scales and weights."""
    wide = any(one.dtype == torch.float64 for one in kept)
    span = max(1, matrix_shape(kept[0].full_shape)[1])
    scales = [one.scale.double().numpy() if one.by_row else float(one.scale) for one in kept]
    merged = ties_dense(
        [one.planes for one in kept], scales, rules.weights, elect=rules.elect, divide=rules.divide,
        factor=rules.factor, span=span, dtype=np.float64 if wide else np.float32,
    )  # fmt: skip
    if not np.isfinite(merged).all():
        raise NonFinite(f"the merge overflows {merged.dtype}")
    return Dense(torch.from_numpy(merged).reshape(kept[0].full_shape))
