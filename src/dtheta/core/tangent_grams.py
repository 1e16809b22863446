"""Gram matrices of tangents: the cheapest exact way for each pair of forms, in bounded memory.

    Outer, Outer   K = sum_tt' (a_t . a'_t') (g_t . g'_t')     through the Grams of the places: N^2 T^2 (d1 + O d2)
                   K = G G'^T, G = sum_t g_t a_t^T             through the derivatives: N O d1 d2 (T + N)
    Rows, Rows     K = sum over equal ids of g . g'            a small Gram for each id
    Rows, Outer    K = sum_ts g'_s[i_t] (g_t . a'_s)           a table that is also an output head
    others         through the derivatives

Costs are multiplications; of equal pairs only one half is computed where that is possible. With T = 1 the first line is
an entrywise product of two Gram matrices, d1 d2 / (d1 + d2) times cheaper than the second.

Shape legend: as core/tangents.py; a second letter 2 (N2, O2, T2) is of the other side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.gram import gram_matrix
from dtheta.core.tangents import Outer, Outputs, Rows, Summed, Tangent, ranges

_MOST = 1 << 23  # numbers that a working array holds; larger ones leave the caches and are mapped anew each time
# An entry of a Gram of places costs, beside its products, about as much as this many multiplications: it is written,
# multiplied, and summed from memory (measured on tokens of a transformer).
_PASS = 24


def gram(left: Tangent, right: Tangent | None, outputs: Outputs) -> Tensor:
    """See ``Tangent.gram``."""
    if isinstance(left, Summed) or isinstance(right, Summed):
        return _of_sums(left, right, outputs)
    other = left if right is None else right
    if isinstance(left, Outer) and isinstance(other, Outer) and left.transposed == other.transposed:
        return outer_gram(left, None if right is None else other, outputs)
    if isinstance(left, Rows) and isinstance(other, Rows):
        return _rows_gram(left, other, outputs)
    if isinstance(left, Rows) and isinstance(other, Outer) and not other.transposed:
        return _rows_outer_gram(left, other, outputs)
    if isinstance(left, Outer) and isinstance(other, Rows) and not left.transposed:
        return turned(_rows_outer_gram(other, left, outputs))
    return _materialized(left, right, outputs)


def turned(K: Tensor) -> Tensor:
    """Return K (N, N2, ...) as (N2, N, ...), outputs turned as well."""
    return K.transpose(0, 1).transpose(2, 3) if K.ndim == 4 else K.mT


def _of_sums(left: Tangent, right: Tangent | None, outputs: Outputs) -> Tensor:
    first = left.uses if isinstance(left, Summed) else (left,)
    if right is not None:
        second = right.uses if isinstance(right, Summed) else (right,)
        return _total([gram(p, q, outputs) for p in first for q in second])
    crossed = [gram(p, q, outputs) for i, p in enumerate(first) for q in first[:i]]
    return _total([gram(p, None, outputs) for p in first] + crossed + [turned(K) for K in crossed])


def _total(found: list[Tensor]) -> Tensor:
    total = found[0]
    for K in found[1:]:
        total = total + K
    return total


def contract(left_NOP: Tensor, right_NOP: Tensor | None, outputs: Outputs) -> Tensor:
    """Return the inner products of derivatives (N, O, P), over one range of entries."""
    n, o, _p = left_NOP.shape
    other = left_NOP if right_NOP is None else right_NOP
    rows = n if outputs == "mean" else n * o
    flat = left_NOP.reshape(rows, -1)
    product = gram_matrix(flat) if right_NOP is None else flat @ other.reshape(-1, flat.shape[1]).mT
    if outputs == "mean":
        return product / o
    return product.view(n, o, other.shape[0], other.shape[1]).transpose(1, 2)


def _materialized(left: Tangent, right: Tangent | None, outputs: Outputs) -> Tensor:
    """Go through the derivatives, a range of entries at a time."""
    other = left if right is None else right
    copies = max(left.examples * left.outputs, other.examples * other.outputs)
    columns = max(left.columns, other.columns)
    K = None
    for start, stop in ranges(left.size, columns, copies, _MOST):
        part = contract(left.entries(start, stop), None if right is None else right.entries(start, stop), outputs)
        K = part if K is None else K.add_(part)
    assert K is not None
    return K


def outer_gram(left: Outer, right: Outer | None, outputs: Outputs) -> Tensor:
    """Return the Gram of two uses as a weight, the cheaper way."""
    through_places, through_derivatives = outer_costs(left, right, outputs)
    if left.inputs.shape[1] == (right or left).inputs.shape[1] == 1:
        return _single(left, right, outputs)
    if through_places < through_derivatives:
        return _places(left, left if right is None else right, outputs)
    return _materialized(left, right, outputs)


def outer_costs(left: Outer, right: Outer | None, outputs: Outputs) -> tuple[float, float]:
    """Return the multiplications through Grams of places, and through derivatives."""
    other = left if right is None else right
    (n, t, d1), (n2, t2, _) = left.inputs.shape, other.inputs.shape
    o, d2 = left.outputs, left.gradients.shape[3]
    pairs, squared = n * t * n2 * t2, 1 if outputs == "mean" else o
    places = pairs * (d1 + o * squared * d2 + (1 if outputs == "mean" else o * o) * _PASS)
    derivatives = (n * t + (0 if right is None else n2 * t2)) * o * d1 * d2
    return places, derivatives + n * n2 * o * squared * d1 * d2 * (0.5 if right is None else 1.0)


def _single(left: Outer, right: Outer | None, outputs: Outputs) -> Tensor:
    """Return the entrywise product of two Grams, for one place an example."""
    n = left.examples
    a = left.inputs.view(n, -1)
    A = gram_matrix(a) if right is None else a @ right.inputs.view(right.examples, -1).mT
    G = contract(left.gradients.flatten(2), None if right is None else right.gradients.flatten(2), outputs)
    return G * (A if outputs == "mean" else A[:, :, None, None])


def _places(left: Outer, right: Outer, outputs: Outputs) -> Tensor:
    """Go through the Grams of places, some examples of the left side at a time."""
    (n, t, _), (n2, t2, _), o = left.inputs.shape, right.inputs.shape, left.outputs
    held = t * n2 * t2 * (1 if outputs == "mean" else o * right.outputs)
    step = max(1, _MOST // held)
    a2 = right.inputs.flatten(0, 1)
    return torch.cat([_some_places(left.examples_of(i, i + step), right, a2, outputs) for i in range(0, n, step)])


def _some_places(left: Outer, right: Outer, a2: Tensor, outputs: Outputs) -> Tensor:
    (n, t, _), (n2, t2, _), o, o2 = left.inputs.shape, right.inputs.shape, left.outputs, right.outputs
    A = left.inputs.flatten(0, 1) @ a2.mT
    if outputs == "mean":  # sum_o (A * G_o) = A * sum_o G_o, one product over outputs and widths together
        g, g2 = (x.gradients.transpose(1, 2).flatten(2).flatten(0, 1) for x in (left, right))
        return (A * (g @ g2.mT)).view(n, t, n2, t2).sum((1, 3)) / o
    G = left.gradients.reshape(n * o * t, -1) @ right.gradients.reshape(n2 * o2 * t2, -1).mT
    weighed = G.view(n, o, t, n2, o2, t2) * A.view(n, 1, t, n2, 1, t2)
    return weighed.sum((2, 5)).transpose(1, 2)


def _rows_gram(left: Rows, right: Rows, outputs: Outputs) -> Tensor:
    """Add up over slices of the rows, since what is gathered is a copy of the gradients."""
    most = max(left.gradients[..., 0].numel(), right.gradients[..., 0].numel())
    K = None
    for start, stop in ranges(left.columns, 1, most, 1 << 25):
        cut, other = (Rows(s.index, s.gradients[..., start:stop], s.count) for s in (left, right))
        part = _equal_ids(cut, cut if right is left else other, outputs)
        K = part if K is None else K.add_(part)
    assert K is not None
    return K


def _equal_ids(left: Rows, right: Rows, outputs: Outputs) -> Tensor:
    """Add up the Grams of equal ids."""
    ids, groups = _grouped(left)
    ids2, groups2 = (ids, groups) if right is left else _grouped(right)
    n, n2, o, o2 = left.examples, right.examples, left.outputs, right.outputs
    shape = (n, n2) if outputs == "mean" else (n, n2, o, o2)
    K = left.gradients.new_zeros(shape)
    second = {int(i): group for i, group in zip(ids2.tolist(), groups2, strict=True)}
    for i, (rows, values) in zip(ids.tolist(), groups, strict=True):
        if (found := second.get(int(i))) is not None:
            # an example has an id once here, so no entry is written to twice
            K[rows[:, None], found[0][None]] += contract(values, found[1], outputs)
    return K


def _grouped(side: Rows) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the ids, ascending, and for each the examples that have it and the sums of their gradients (k, O, d)."""
    n, t = side.index.shape
    key = side.index.flatten() * n + torch.arange(n, device=side.index.device).repeat_interleave(t)
    pairs, inverse = key.unique(return_inverse=True)
    g = side.gradients.transpose(1, 2).flatten(0, 1)
    sums = g.new_zeros(len(pairs), *g.shape[1:]).index_add_(0, inverse, g)
    kept = (sums != 0).flatten(1).any(1)  # padding mostly, which nothing depends on
    pairs, sums = pairs[kept], sums[kept]
    ids, counts = torch.div(pairs, n, rounding_mode="floor").unique_consecutive(return_counts=True)
    sizes = counts.tolist()
    return ids, list(zip((pairs % n).split(sizes), sums.split(sizes), strict=True))


def _rows_outer_gram(left: Rows, right: Outer, outputs: Outputs) -> Tensor:
    """Return the products of a table's rows with the same table as an output head.

    sum_ts (g_t . a'_s) g'_s[i_t] = sum_t g_t . (dW'[i_t]), with the rows of dW' that an example needs.
    """
    n, n2, o, o2 = left.examples, right.examples, left.outputs, right.outputs
    found = []
    for i in range(n):
        index, g = left.index[i], left.gradients[i]  # (T,), (O, T, d)
        needed = right.gradients[..., index]  # (N2, O2, T2, T)
        G = needed.mT @ right.inputs.unsqueeze(1)  # (N2, O2, T, d)
        if outputs == "mean":
            found.append(torch.einsum("motd,otd->m", G, g) / o)
        else:
            found.append(torch.einsum("mptd,otd->mop", G, g))
    return torch.stack(found).view((n, n2) if outputs == "mean" else (n, n2, o, o2))
