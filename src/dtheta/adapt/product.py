"""The output of a linear layer with displaced weight, and its gradients, at the price of the displacement's rank.

    y  = x (W + D)^T + b,   D = sum over terms of  c (L diag(s) R - L0 diag(s0) R0)
    dx = g (W + D)
    P = x R^T,  Q = g L:    dL = c g^T (P s),   dR = c (Q s)^T x,   ds = c sum over tokens of Q P

W + D is made for this one product and forgotten after its gradient; W is not written to. Compared with a second product
beside the layer, x R^T L^T, that saves a factored product of x and one of g for the price of making D, which pays as
soon as T (m + n) > m n for T tokens (``prefers_matrix``); a weight of this size is then no larger than the activations.
With a start to subtract it saves two of each, so PiSSA and SORSA cost no more than LoRA.

D is made from differences of small factors (``Triple.pair``). Before the first step it is exactly zero, and y is the
layer's own output, bit for bit.

Shape legend: x (T, n), y and g (T, m), W and D (m, n), L (m, r), R (r, n); P and Q (T, r). For a layer that stores its
weight as (in, out) the factors change places: its L is our R^T, its R our L^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.adapt.term import Triple
from dtheta.core.selection import Window


@dataclass(frozen=True)
class Added:
    """One term: its factors, the outputs that it reaches (None for all), and its adapter's weight."""

    triple: Triple
    window: Window | None
    weight: float

    @property
    def scale(self) -> float:
        """c, times the adapter's weight."""
        return self.triple.scale * self.weight


def displaced(x: Tensor, weight: Tensor, bias: Tensor | None, terms: Sequence[Added], transposed: bool) -> Tensor:
    """Return y (..., m).

    Args:
        x: (..., n), of the dtype of ``weight`` and of the factors.
        weight: (m, n), or (n, m) if ``transposed``; no gradient reaches it.
        bias: (m,), or None.
        terms: What is added to the weight.
        transposed: Whether the layer computes x W, as transformers' Conv1D.
    """
    factors = [t for term in terms for t in (term.triple.left, term.triple.core, term.triple.right)]
    if torch.is_grad_enabled():
        return _Displaced.apply(x, weight, bias, terms, transposed, *factors)  # type: ignore[no-any-return]
    return _product(x, _moved(weight, terms, transposed), bias, transposed)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """Return the layer's output, by the very operation that the layer uses."""
    if not transposed:
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    return y.view(*x.shape[:-1], weight.shape[1])


def _moved(weight: Tensor, terms: Sequence[Added], transposed: bool) -> Tensor:
    """Return W + D, in the layout of the layer."""
    result = weight
    for term in terms:
        left, right = term.triple.pair()
        if term.window is None and result is weight:
            result = torch.addmm(result, left, right, alpha=term.weight)
            continue
        result = result.clone() if result is weight else result
        _cut(result, term.window, 1 if transposed else 0).addmm_(left, right, alpha=term.weight)
    return result


def _cut(tensor: Tensor, window: Window | None, axis: int) -> Tensor:
    return tensor if window is None else tensor.narrow(axis, window.start, window.stop - window.start)


class _Displaced(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        terms: Sequence[Added],
        transposed: bool,
        *factors: Tensor | None,
    ) -> Tensor:
        moved = _moved(weight, terms, transposed)
        ctx.terms, ctx.transposed = terms, transposed
        ctx.save_for_backward(x, weight, moved, *factors)
        output = _product(x, moved, bias, transposed)
        # here, without a graph, torch makes a view; a layer's output is none, and may be written to in place
        return torch.ops.aten._unsafe_view.default(output, output.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight, moved, *factors = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative: W + D must depend on the factors again
            moved = _moved(weight, ctx.terms, ctx.transposed)
        x_grad = (F.linear(grad, moved) if ctx.transposed else grad @ moved) if ctx.needs_input_grad[0] else None
        x_TN, g_TM = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        bias_grad = g_TM.sum(0) if ctx.needs_input_grad[2] else None
        found: list[Tensor | None] = []
        for i, term in enumerate(ctx.terms):
            left, core, right = factors[3 * i : 3 * i + 3]
            wanted = ctx.needs_input_grad[5 + 3 * i : 8 + 3 * i]
            g_part = _cut(g_TM, term.window, 1)
            if ctx.transposed:
                turned = _gradients(x_TN, g_part, right.mT, core, left.mT, term.scale, wanted[::-1])
                found += [d if d is None or d.ndim < 2 else d.mT for d in reversed(turned)]
            else:
                found += _gradients(x_TN, g_part, left, core, right, term.scale, wanted)
        return x_grad, None, bias_grad, None, None, *found


def _gradients(
    x_TN: Tensor, g_TM: Tensor, left: Tensor, core: Tensor | None, right: Tensor, scale: float, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of L, s and R that are wanted, by the cheaper of two routes.

    Through P and Q the tokens pass the factors, T r (m + n) multiplications twice; through G = g^T x they pass once,
    T m n, and the rest is of the size of the weight.
    """
    (m, r), n, tokens = left.shape, right.shape[1], len(x_TN)
    columns = scale if core is None else core * scale
    rows = scale if core is None else (core * scale)[:, None]
    left_wanted, core_wanted, right_wanted = wanted
    d_left = d_core = d_right = None
    if tokens * m * n + 2 * r * m * n < 2 * tokens * r * (m + n):
        G_MN = g_TM.mT @ x_TN
        if left_wanted or core_wanted:
            G_MR = G_MN @ right.mT
            d_left = G_MR * columns if left_wanted else None
            d_core = (left * G_MR).sum(0) * scale if core_wanted else None
        if right_wanted:
            d_right = (left.mT @ G_MN) * rows
        return [d_left, d_core, d_right]
    P_TR = x_TN @ right.mT if left_wanted or core_wanted else None
    Q_TR = g_TM @ left if core_wanted or right_wanted else None
    if left_wanted and P_TR is not None:
        d_left = (g_TM.mT @ P_TR) * columns
    if core_wanted and P_TR is not None and Q_TR is not None:
        d_core = (Q_TR * P_TR).sum(0) * scale
    if right_wanted and Q_TR is not None:
        d_right = (Q_TR.mT @ x_TN) * rows
    return [d_left, d_core, d_right]
