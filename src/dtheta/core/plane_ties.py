"""TIES on ternary vectors of different scales and weights: planes in, a dense vector out.

    x_i = (w_i s_i) t_i                          t_i ternary, s_i its scales, w_i its weight
    e   = +1 if sum_i x_i >= 0 else -1           elect="total"
    e   = +1 if #{x_i > 0} >= #{x_i < 0} else -1   elect="count"
    y   = factor * sum_{i: e x_i > 0} x_i / d    0 where no entry agrees
    d   = #{i: e x_i > 0}                        divide="count": the paper, peft
    d   = sum_{i: e x_i > 0} w_i                 divide="weights": mergekit with normalize; below 1e-8 it counts as 1
    d   = 1                                      divide=None

Yadav et al. 2023, arXiv 2306.01708. Each formula is taken entry by entry in float64, sums in the order of the vectors,
and y rounded once to the dtype of the result: bit for bit what the same formulas give on dense float64 vectors. peft's
vote by count ("frequency") also counts zeros as positive; mergekit's and this one do not.

Shape legend: M vectors, r runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dtheta.core.compiled import loops
from dtheta.core.plane_blocks import Factors, blocks, coefficients
from dtheta.core.planes import Planes, same_length
from dtheta.errors import ConfigError, NonFinite, did_you_mean

_ELECTIONS = ("total", "count")
_DIVISORS = ("count", "weights", None)


def ties_dense(
    planes: Sequence[Planes],
    scales: Factors,
    weights: Sequence[float] | None = None,
    *,
    elect: Literal["total", "count"] = "total",
    divide: Literal["count", "weights"] | None = "count",
    factor: float = 1.0,
    span: int | None = None,
    dtype: Any = np.float32,
) -> NDArray[Any]:
    """Return the TIES merge of scaled and weighted ternary vectors, (n,) dense.

    Args:
        planes: M vectors of n elements each.
        scales: For each vector a number, or an array of one number per ``span`` elements.
        weights: One number for each vector, of any sign; all 1 by default.
        elect: Whether the sign is elected by the sum of the entries or by how many have it; a tie elects the positive.
        divide: By what the sum of the agreeing entries is divided.
        factor: Multiplies the result (the paper's lambda).
        span: Elements that share a number of an array of scales; the last may have fewer.
        dtype: float32 or float64, of the result.

    Raises:
        ConfigError: For an unknown rule or dtype, or no vectors.
        ShapeMismatch: If lengths or numbers of scales and weights do not fit.
        NonFinite: If a scale, a weight, their product or the factor is not finite.
    """
    _check_rules(elect, divide, factor, dtype)
    length, M = same_length(planes), len(planes)
    scale_Mr, run = coefficients(scales, M, length, span, np.float64, "scales")
    weight_M = coefficients([1.0] * M if weights is None else weights, M, length, None, np.float64, "weights")[0][:, 0]
    coef_Mr = _products(weight_M, scale_Mr)
    elect_Mr = coef_Mr if elect == "total" else np.sign(coef_Mr)
    share_M = {"count": np.ones(M), "weights": weight_M, None: np.zeros(M)}[divide]  # a sum of 0 divides by 1
    result = np.empty(length, dtype)
    plane = loops("plane")
    for start, stop, P_MW, N_MW in blocks(planes, length):
        plane.consensus(start, P_MW, N_MW, run, elect_Mr, coef_Mr, share_M, float(factor), result[start:stop])
    return result


def _products(weight_M: NDArray[np.float64], scale_Mr: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        coef_Mr = weight_M[:, None] * scale_Mr
    if not np.isfinite(coef_Mr).all():
        raise NonFinite("a weight times a scale is too large for float64; make one of them smaller")
    return coef_Mr


def _check_rules(elect: Any, divide: Any, factor: float, dtype: Any) -> None:
    if elect not in _ELECTIONS:
        raise ConfigError(
            f"a sign elected by {elect!r}{did_you_mean(str(elect), _ELECTIONS)}; choose 'total' or 'count'"
        )
    if divide not in _DIVISORS:
        raise ConfigError(f"a sum divided by {divide!r}; choose 'count', 'weights' or None")
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ConfigError(f"a result of {np.dtype(dtype)}; choose float32 or float64")
    if not math.isfinite(factor):
        raise NonFinite(f"the factor is {factor}; expected a finite number")
