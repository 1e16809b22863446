"""The record that flows through the layers: covariances of outputs (NNGP) and of gradients (NTK) of a wide network.

    nngp(x, x') = E[f(x) f(x')]        ntk(x, x') = E[<df(x)/dtheta, df(x')/dtheta>]

of one unit, over the weights' draw, at infinite width (Lee et al. 2018; Jacot, Gabriel and Hongler 2018). Beside the
pairs of two sets of examples it holds each set's covariance with itself, which activations need for the variances.

Units have *places*: pixels, or tokens of a sequence. What later layers need decides how much is kept of them:

    diagonal    cov(f(x)[s], f(x')[s]) of the same place in both: enough for Dense, Conv, Flatten and activations
    full        cov(f(x)[s], f(x')[t]) of every two places: for pooling and attention, P times as large

Shapes: N, N2 examples; P places, flattened. Pairs: (N, N2), (N, N2, P) diagonal or (N, N2, P, P) full; a set with
itself: (N,), (N, P) or (N, P, P).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kernel:
    """Covariances of one layer's units; layers return new ones and change none.

    Attributes:
        nngp: Covariance of outputs, one entry a pair of examples (and places).
        ntk: Covariance of gradients, of the same shape; None where only the NNGP is asked for.
        first: Covariance of outputs of each of the N examples with itself.
        second: The same of the N2 examples.
        places: Their shape: () for plain vectors, (L,), (H, W) ...
        full: Whether pairs of different places are held.
        gaussian: Whether the units are Gaussian with mean 0, as behind a layer of weights; an activation ends it.
        same: Whether the two sets are one, so that pair (i, i) is an example with itself.
    """

    nngp: Tensor
    ntk: Tensor | None
    first: Tensor
    second: Tensor
    places: tuple[int, ...] = ()
    full: bool = False
    gaussian: bool = False
    same: bool = False

    def variances(self) -> tuple[Tensor, Tensor]:
        """Return the variances of both sets, shaped so that they broadcast over ``nngp``."""
        p, q = own_variances(self.first, self.full), own_variances(self.second, self.full)
        if self.full:
            return p[:, None, :, None], q[None, :, None, :]
        return p[:, None], q[None]

    def with_diagonal(self) -> Kernel:
        """Return the kernel with each example's own covariance where a pair is one example with itself.

        Both are the same number in theory; a product of matrices rounds otherwise than a sum of squares, and an
        activation would turn the last bit of a correlation of 1 into half of all digits.
        """
        self.set_own(self.nngp, self.first)
        return self

    def set_own(self, values: Tensor, own: Tensor) -> None:
        """Write ``own``, an entry for each of the N examples, where a pair of ``values`` is an example with itself."""
        if self.same:
            torch.diagonal(values, 0, 0, 1).copy_(own.movedim(0, -1))

    def mapped(self, change: Any, **fields: Any) -> Kernel:
        """Return the kernel after a linear map ``change(values, pairs)`` of every covariance alike.

        ``pairs`` is the number of leading axes of examples: 2 for pairs, 1 for a set with itself.
        """
        ntk = None if self.ntk is None else change(self.ntk, 2)
        first, second = change(self.first, 1), change(self.second, 1)
        return replace(self, nngp=change(self.nngp, 2), ntk=ntk, first=first, second=second, **fields)


def own_variances(covariance: Tensor, full: bool) -> Tensor:
    """Return the variances (N, P) of a set's covariance with itself, or that covariance where it holds nothing else."""
    return torch.diagonal(covariance, 0, -2, -1) if full else covariance


def input_kernel(x: Tensor, x2: Tensor, *, full: bool, ntk: bool) -> Kernel:
    """Return the kernel of the inputs themselves: products of channels divided by their number; no gradients yet.

    ``x`` is (N, channels, *places); ``x2`` (N2, channels, *places), or ``x`` itself.
    """
    places, channels, full = tuple(x.shape[2:]), x.shape[1], full and x.ndim > 2
    a, b = (value.flatten(2) if places else value for value in (x, x2))
    if full:
        nngp = torch.einsum("ncs,mct->nmst", a, b)
        first, second = (v.mT @ v for v in (a, b))
    else:
        nngp = torch.einsum("ncs,mcs->nms", a, b) if places else a @ b.mT
        first, second = ((v * v).sum(1) for v in (a, b))
    nngp, first, second = (values.div_(channels) for values in (nngp, first, second))
    zero = torch.zeros_like(nngp) if ntk else None
    return Kernel(nngp, zero, first, first if x2 is x else second, places, full, same=x2 is x).with_diagonal()
