"""The visits that a merge method pays to one tensor: those that look, and the last one that computes.

    trim      of the steps of every input, to find what is kept       (ties, breadcrumbs)
    scale     one, for L1 norms or the angle                          (dare, slerp)
    mix       one, range by range: the result in float64

Sums over a tensor are sums of its ranges' sums, added in order: no number of threads, and nothing else, moves a bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from dtheta.compose.merge_parts import Part
from dtheta.compose.merge_plan import MergePlan
from dtheta.compose.mixing import agreed_sum, divisor, slerp_factors, weighted_sum
from dtheta.compose.slab_inputs import Opening, StepsOf
from dtheta.compose.trimming import Chance, Nothing, Trim, Whole, by_magnitude, without_outliers
from dtheta.core.stream import ranges
from dtheta.errors import ConfigError, NonFinite

Mix: TypeAlias = Callable[[int, int], Tensor]  # elements start:stop of the result, float64; asked for in order


def mixture(part: Part, opening: Opening, plan: MergePlan) -> Mix:
    """Return what computes ranges of the result, after the visits that it needs."""
    match plan.rule.kind:
        case "linear":
            return _linear(part, opening)
        case "passthrough":
            scale = part.each["scale"][0]
            return lambda start, stop: weighted_sum(_values(opening, start, stop), [1.0 if scale is None else scale])
        case "slerp":
            return _slerp(part, opening)
        case _:
            return _steps(part, opening, plan)


def _values(opening: Opening, start: int, stop: int) -> list[Tensor]:
    base = opening.based(start, stop)
    return [item.values(start, stop, base) for item in opening.inputs]


def _linear(part: Part, opening: Opening) -> Mix:
    weights = part.each["weight"]
    total = math.fsum(weights) if part.shared["normalize"] else 1.0
    return lambda start, stop: weighted_sum(_values(opening, start, stop), weights).div_(total)


def _slerp(part: Part, opening: Opening) -> Mix:
    """Return the interpolation from the base to the other input."""
    base = _base_of(opening)

    def pair(start: int, stop: int) -> tuple[Tensor, Tensor]:
        base_n = base(start, stop)
        return base_n.double(), opening.inputs[0].values(start, stop, base_n).double()

    inner, square, other = 0.0, 0.0, 0.0
    for start, stop in ranges(part.numel):
        a_n, b_n = pair(start, stop)
        inner, square, other = inner + _dot(a_n, b_n), square + _dot(a_n, a_n), other + _dot(b_n, b_n)
    if not math.isfinite(square + other):
        raise NonFinite(f"{part.name}: an input holds NaN or infinity; it cannot be merged")
    factors = slerp_factors(part.shared["t"], inner, (square, other))
    return lambda start, stop: weighted_sum(pair(start, stop), factors)


def _base_of(opening: Opening) -> Callable[[int, int], Tensor]:
    stored = opening.base
    if stored is None:
        raise ConfigError("this method works on steps from a base, and none was named")
    return lambda start, stop: stored.values(start, stop, None)


def _dot(a_n: Tensor, b_n: Tensor) -> float:
    """Return an inner product that is the same for any number of threads."""
    return float(np.add.reduce((a_n * b_n).numpy()))


def _steps(part: Part, opening: Opening, plan: MergePlan) -> Mix:
    """Return the base plus trimmed, weighted and perhaps agreed steps."""
    rule, base = plan.rule, _base_of(opening)
    trims = [_trim(part, opening, plan, i) for i in range(len(opening.inputs))]
    weights = part.each["weight"]
    factors = list(weights)
    if part.shared["rescale"] and rule.trim is not None:
        factors = [
            w * _l1_ratio(StepsOf(opening, i, part.numel), trim)
            for i, (w, trim) in enumerate(zip(weights, trims, strict=True))
        ]
    visits = [trim.visit() for trim in trims]
    normalize, scale = part.shared["normalize"], part.shared["lambda"]
    whole = float(divisor(torch.tensor(math.fsum(weights), dtype=torch.float64))) if normalize else 1.0

    def mix(start: int, stop: int) -> Tensor:
        base_n = base(start, stop)
        steps_n = []
        for item, visit, factor in zip(opening.inputs, visits, factors, strict=True):
            steps_n.append(visit(item.step(start, stop, base_n)).double().mul_(factor))
        if rule.consensus:
            moved_n = agreed_sum(steps_n, weights, normalize)
        else:
            moved_n = weighted_sum(steps_n, [1.0] * len(steps_n)).div_(whole)
        return moved_n.mul_(scale).add_(base_n)

    return mix


def _trim(part: Part, opening: Opening, plan: MergePlan, i: int) -> Trim:
    """Return what is kept of the steps of input ``i``."""
    density, kind = part.each["density"][i], plan.rule.trim
    steps = StepsOf(opening, i, part.numel)
    try:
        if kind == "magnitude":
            return by_magnitude(steps, part.numel, density)
        if kind == "outliers":
            return without_outliers(steps, part.numel, density, part.each["gamma"][i])
    except NonFinite:
        raise NonFinite(f"{part.name}: input {part.places[i]} or the base holds NaN or infinity") from None
    if kind == "chance" and density < 1:
        name = f"merge {part.places[i]} {part.name}"
        return Chance(density, plan.seed, name) if density > 0 else Nothing()
    return Whole()


def _l1_ratio(steps: Iterable[Tensor], trim: Trim) -> float:
    """Return by what a trimmed step is multiplied to have the L1 norm that it had; 1 where it lost all."""
    if isinstance(trim, Whole | Nothing):
        return 1.0
    before, after, visit = 0.0, 0.0, trim.visit()
    for step_n in steps:
        before += float(np.add.reduce(step_n.double().abs_().numpy()))
        after += float(np.add.reduce(visit(step_n).double().abs_().numpy()))
    return before / after if before >= 1e-7 and after >= 1e-7 else 1.0
