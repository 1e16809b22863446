"""Sums of deltas in a federation: exact, and no larger than they have to be.

    sum_k w_k D_k      by parameter, in float64; factors are stacked, and never added to each other

The rule of storage: a change stays in factors, ternary or as rows as long as that takes fewer bytes than the dense
tensor; where it would take as many, it becomes the dense tensor, computed in float64 and rounded once. So a global
delta never outgrows the parameters that it moves, however many rounds there are. Both sides of a federation follow it,
and hold the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dtheta.core.change import Change, Dense, New, matrix_shape
from dtheta.core.combination import add, scale
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.federate.frame import Frame

_MADE = Provenance("federate", created="")  # one for all sums: what is said of a federation stands in its history


def weighted(deltas: Sequence[Delta], weights: Sequence[float], frame: Frame) -> Delta:
    """Return the weighted sum of deltas of a frame; a parameter that a delta leaves out counts as zero."""
    changes: dict[str, Change] = {}
    for name in frame.shapes:
        held = [(w, d.changes[name]) for w, d in zip(weights, deltas, strict=True) if name in d.changes]
        if held:
            changes[name] = _sum([w for w, _ in held], [c for _, c in held])
    return Delta(changes, frame.base, _MADE)


def moved(start: Delta, update: Delta, frame: Frame) -> Delta:
    """Return a global delta after an update of it: what server and clients compute alike."""
    return weighted([start, update], [1.0, 1.0], frame)


def _sum(weights: Sequence[float], changes: Sequence[Change]) -> Change:
    if changes[0].is_new:  # multiples of new vectors are rounded one by one elsewhere
        summed = torch.zeros(matrix_shape(changes[0].shape), dtype=torch.float64)
        for weight, change in zip(weights, changes, strict=True):
            change.add_to(summed, weight)
        wide = any(change.dtype == torch.float64 for change in changes)
        return New(summed.reshape(changes[0].shape).to(torch.float64 if wide else torch.float32))
    return compact(add([scale(change, weight) for weight, change in zip(weights, changes, strict=True)]))


def compact(change: Change) -> Change:
    """Return a change in its form, or as a dense tensor where that takes no more bytes."""
    if isinstance(change, Dense):
        return change
    element = 8 if change.dtype == torch.float64 else 4
    return change if change.nbytes < element * math.prod(change.shape) else Dense(change.dense())
