"""Parameter shift: the derivative of an expectation from its values at other angles, exact or sampled.

    df/dt = (f(t + pi/2) - f(t - pi/2)) / 2                                             rotations RX RY RZ
    df/dt = c+ (f(t + pi/2) - f(t - pi/2)) - c- (f(t + 3pi/2) - f(t - 3pi/2))           controlled rotations
    c+- = (sqrt 2 +- 1) / (4 sqrt 2)

Mitarai and others 2018 (arXiv 1803.00745); Schuld and others 2019 (arXiv 1811.11184); four terms: Anselmetti and others
2021 (arXiv 2104.05695). The rule holds for expectations, not for ratios of them or for losses: those take the chain
rule. Every angle must belong to one gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ROOT = math.sqrt(2)
_TWO = ((math.pi / 2, 0.5),)
_FOUR = ((math.pi / 2, (_ROOT + 1) / (4 * _ROOT)), (3 * math.pi / 2, -(_ROOT - 1) / (4 * _ROOT)))


def parameter_shift(
    value: Callable[[Tensor], Tensor],
    angles: Float[Tensor, ...],
    four_term: Bool[Tensor, ...] | None = None,
) -> Float[Tensor, "P ..."]:
    """Return the derivative of ``value`` by every angle.

    Args:
        value: angles -> expectations of any shape; exact, or sampled (then the derivative is an unbiased estimate with
            independent shots in every term).
        angles: where; P in all, in any shape.
        four_term: which angles need four terms, as a circuit's ``four_term`` says; none if None.

    Returns:
        (P, *shape of the value), P in the order of ``angles.flatten()``.
    """
    point, rows = angles.detach(), []
    four = torch.zeros(point.shape, dtype=torch.bool) if four_term is None else four_term
    for index, long in enumerate(four.flatten().tolist()):
        terms = [_difference(value, point, index, shift) * weight for shift, weight in (_FOUR if long else _TWO)]
        rows.append(torch.stack(terms).sum(0))
    return torch.stack(rows)


def shifted(angles: Tensor, index: int, shift: float) -> Tensor:
    """Return the angles with one of them, by its place in ``angles.flatten()``, moved."""
    moved = angles.detach().clone()
    moved.view(-1)[index] += shift
    return moved


@torch.no_grad()
def _difference(value: Callable[[Tensor], Tensor], angles: Tensor, index: int, shift: float) -> Tensor:
    return value(shifted(angles, index, shift)) - value(shifted(angles, index, -shift))
