"""The formulas of merging, on one range of one tensor.

    linear            y = sum_i w_i x_i / W                                W = sum_i w_i if normalize, else 1
    passthrough       y = a x
    slerp             y = a x0 + b x1      a = sin((1 - t) phi) / sin phi,  b = sin(t phi) / sin phi,  phi their angle;
                                           a = 1 - t, b = t where |cos phi| > 0.9995
    steps             d_i = x_i - x0                                       in float32; float64 if an input is
                      s_i = c_i trim_i(d_i)                                c_i = w_i, times |d_i|_1 / |trim_i(d_i)|_1
                                                                           if rescale
                      y = x0 + lambda sum_i s_i / W
    with consensus    e = +1 if sum_i s_i >= 0 else -1;  only i with e s_i > 0 count, in the sum and in W
    W                 sum of the w_i that count if normalize (1 where that is below 1e-8), else 1

Linear and task arithmetic: Wortsman et al. 2022 (arXiv 2203.05482), Ilharco et al. 2022 (2212.04089). TIES: Yadav et
al. 2023 (2306.01708). DARE: Yu et al. 2023 (2311.03099). Breadcrumbs: Davari and Belilovsky 2023 (2312.06795). As in
mergekit, densities are per tensor, and DARE restores the L1 norm of each step instead of dividing by the probability.

Steps are differences of what is stored, all that follows is float64, sums go in the order of the inputs, and y is
rounded once.

Shape legend: N inputs beside the base, n elements of the range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_PARALLEL = 0.9995  # |cos| above which two tensors are taken to be parallel
_SMALL = 1e-8


def weighted_sum(values_n: Sequence[Tensor], weights_N: Sequence[float]) -> Tensor:
    """Return ``sum_i w_i x_i``, (n,) float64."""
    total_n = torch.zeros(values_n[0].shape, dtype=torch.float64)
    for value_n, weight in zip(values_n, weights_N, strict=True):
        total_n += value_n.double() * weight  # not in place: it may be what is kept of a file
    return total_n


def agreed_sum(steps_n: Sequence[Tensor], weights_N: Sequence[float], normalize: bool) -> Tensor:
    """Return the sum of the entries that have the elected sign, over the sum of their weights if asked; (n,) float64.

    Args:
        steps_n: Weighted steps, float64; they are overwritten.
        weights_N: One for each.
        normalize: Whether to divide.
    """
    election_n = torch.zeros_like(steps_n[0])
    for step_n in steps_n:
        election_n += step_n
    sign_n = torch.ge(election_n, 0, out=election_n).mul_(2).sub_(1)
    total_n, weight_n = torch.zeros_like(sign_n), torch.zeros_like(sign_n)
    for step_n, weight in zip(steps_n, weights_N, strict=True):
        total_n += step_n.mul_(sign_n).clamp_(min=0)
        if normalize:
            weight_n.add_(step_n.sign_(), alpha=weight)
    total_n *= sign_n
    return total_n.div_(divisor(weight_n)) if normalize else total_n


def divisor(weight_n: Tensor) -> Tensor:
    """Return the sums of weights, with 1 in place of those next to zero; in place."""
    return weight_n.masked_fill_(weight_n.abs() < _SMALL, 1.0)


def slerp_factors(t: float, inner: float, squares: tuple[float, float]) -> tuple[float, float]:
    """Return the factors of two tensors from their inner product and squared norms."""
    norms = [math.sqrt(square) for square in squares]
    lengths = [norm if norm > _SMALL else 1.0 for norm in norms]
    cosine = max(-1.0, min(1.0, inner / lengths[0] / lengths[1]))
    if abs(cosine) > _PARALLEL:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
