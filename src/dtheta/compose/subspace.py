"""Subspace: what coefficients do to one parameter, and what its gradient does to them.

    down    theta = theta0 + sum_i c_i tau_i                     n numbers -> a tensor
    up      dL/dc_i = <G, tau_i>,   G = dL/dtheta                a tensor  -> n numbers

The two are a linear map and its transpose, [tau_1 ... tau_n] of one block. With K parts (partition.py) there is one
number per vector and part, k(e) the part of element e:

    down    theta_e = theta0_e + sum_i c_i,k(e) tau_i,e          up      dL/dc_i,k = sum over e in part k of G_e tau_i,e

Neither keeps anything but the changes themselves, except where the parameter is small (biases, norms): there one
product with the stack of dense vectors takes less than looking at each. Both run in float32 (float64 where the
parameter is) and round once to the parameter's dtype; products are summed in float64.

Shape legend: n deltas, a of which change this block; K parts; N elements of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dtheta.compose import signs
from dtheta.compose.compose import combined
from dtheta.compose.partition import part_ids
from dtheta.compose.terms import Term, terms
from dtheta.core.change import Change, matrix_shape, slabs
from dtheta.core.displace import displaced
from dtheta.core.planes import Planes

_RANKS = 256  # of factored terms that are worked on in one product
_SMALL = 1 << 13  # elements up to which a stack of dense vectors is held: 64 KiB a vector


@dataclass(eq=False)
class Subspace:
    """The changes of one parameter by n deltas.

    Attributes:
        name: Of the parameter.
        changes: Its change by the number of the delta, for those that have one and were selected; on one device.
        count: Number of deltas n.
        parts: K.
        seed: Of the partition, if K > 1.
    """

    name: str
    changes: Mapping[int, Change]
    count: int
    parts: int = 1
    seed: int = 0
    _stack_aN: Tensor | None = field(init=False, default=None)
    _ternary: list[tuple[int, float, Planes]] = field(init=False, default_factory=list)
    _factored: list[list[tuple[int, Term]]] = field(init=False, default_factory=list)
    _terms: list[tuple[int, Term]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        found = list(self.changes.values())
        if self.parts == 1 and found and math.prod(found[0].shape) <= _SMALL:
            self._stack_aN = torch.stack([change.dense().reshape(-1).double() for change in found])
            return
        for i, change in self.changes.items():
            for term in terms(change):
                if (signed := term.signed) is not None:
                    self._ternary.append((i, *signed))
                elif term.leaf.rank is not None and not term.windows:
                    self._append_factored(i, term)
                else:
                    self._terms.append((i, term))

    def _append_factored(self, i: int, term: Term) -> None:
        """Put a factored term to the last group of those that are worked on together, or begin another."""
        rank = sum(other.leaf.rank or 0 for group in self._factored[-1:] for _, other in group)
        if not self._factored or rank + (term.leaf.rank or 0) > _RANKS:
            self._factored.append([])
        self._factored[-1].append((i, term))

    def down(self, base: Tensor | None, values_nK: Tensor, out: Tensor) -> None:
        """Write the displaced parameter to ``out``; nothing else is written to.

        Args:
            base: The parameter, or None for zero.
            values_nK: Finite coefficients on the CPU.
            out: Contiguous tensor of the parameter's shape.
        """
        if not bool(values_nK.any()):
            out.zero_() if base is None else out.copy_(base)
        elif self._stack_aN is not None:
            moved = (values_nK[list(self.changes), 0].to(out.device) @ self._stack_aN).reshape(out.shape)
            out.copy_(moved if base is None else moved.add_(base))
        else:
            self._down(base, values_nK, out)

    def _down(self, base: Tensor | None, values_nK: Tensor, out: Tensor) -> None:
        dtype = _wide(out)
        target = out if out.dtype == dtype else torch.empty(out.shape, dtype=dtype, device=out.device)
        start = base if base is not None and base.dtype == dtype and base.is_contiguous() else None
        if start is None or self.parts > 1 or not self._ternary:
            target.zero_() if base is None else target.copy_(base)
            start = target
        matrix = target.view(matrix_shape(out.shape))
        if self.parts > 1:
            self._add_parts(matrix, values_nK)
        else:
            self._add(start, matrix, values_nK[:, 0].tolist())
        if target is not out:
            out.copy_(target)

    def exactly(self, base: Tensor | None, values_nK: Tensor, out: Tensor) -> None:
        """Do what ``down`` does, to the bit as ``applied`` does it with the composed delta: for what is measured."""
        moved = {i: change for i, change in self.changes.items() if bool(values_nK[i].any())}
        if not moved:
            out.zero_() if base is None else out.copy_(base)
            return
        change = combined(self.name, moved, values_nK, self.seed)
        out.copy_(change.dense() if base is None else displaced(base, [change], self.name))

    def up(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the coefficients, (n, K) float64 on the CPU, from that by the parameter."""
        gradient = (gradient.to_dense() if gradient.is_sparse else gradient).detach()
        if self._stack_aN is not None:
            found = torch.zeros(self.count, 1, dtype=torch.float64)
            found[list(self.changes), 0] = (self._stack_aN @ gradient.reshape(-1).double()).cpu()
            return found
        matrix = gradient.to(_wide(gradient)).reshape(matrix_shape(gradient.shape)).contiguous()
        return self._inner_parts(matrix) if self.parts > 1 else self._inner(matrix)[:, None]

    def _add(self, start: Tensor, matrix: Tensor, values_n: list[float]) -> None:
        """Write ``start`` and the terms to ``matrix``; ternary ones together, in the pass that reads ``start``."""
        if self._ternary:
            factors = [values_n[i] * scale for i, scale, _ in self._ternary]
            signs.add(start, [planes for _, _, planes in self._ternary], factors, matrix)
        for group in self._factored:
            weights = [values_n[i] * term.factor for i, term in group]
            matrix.addmm_(*_side_by_side([term for _, term in group], weights, matrix.dtype))
        for i, term in self._terms:
            if values_n[i] != 0.0:
                term.add_to(matrix, values_n[i])

    def _inner(self, matrix: Tensor) -> Tensor:
        found = torch.zeros(self.count, dtype=torch.float64)
        if self._ternary:
            sums = signs.inner(matrix, [planes for _, _, planes in self._ternary])
            for (i, scale, _), sum_ in zip(self._ternary, sums.tolist(), strict=True):
                found[i] += scale * sum_
        for group in self._factored:
            left, right = _side_by_side([t for _, t in group], [t.factor for _, t in group], matrix.dtype)
            products = ((left.mT @ matrix) * right).sum(1, dtype=torch.float64).cpu()
            owners = [i for i, term in group for _ in range(term.leaf.rank or 0)]
            found.index_add_(0, torch.tensor(owners, dtype=torch.int64), products)
        if self._terms:
            products = torch.stack([term.inner(matrix) for _, term in self._terms])  # one wait for the device
            found.index_add_(0, torch.tensor([i for i, _ in self._terms]), products.cpu())
        return found

    def _add_parts(self, matrix: Tensor, values_nK: Tensor) -> None:
        rows, columns = matrix.shape
        values_nK = values_nK.to(matrix)
        for start, stop in slabs(rows, columns, matrix.device):
            ids = part_ids(self.seed, self.name, self.parts, start * columns, stop * columns, matrix.device)
            for i, change in self.changes.items():
                cut = change.window(0, start, stop)
                if cut is not None:
                    part = values_nK[i][ids].reshape(stop - start, columns)
                    matrix[start:stop].addcmul_(part, cut.matrix().to(matrix.dtype))

    def _inner_parts(self, matrix: Tensor) -> Tensor:
        rows, columns = matrix.shape
        found_nK = torch.zeros(self.count, self.parts, dtype=torch.float64, device=matrix.device)
        for start, stop in slabs(rows, columns, matrix.device):
            ids = part_ids(self.seed, self.name, self.parts, start * columns, stop * columns, matrix.device)
            part = matrix[start:stop].double()
            for i, change in self.changes.items():
                cut = change.window(0, start, stop)
                if cut is not None:
                    found_nK[i].index_add_(0, ids, (part * cut.matrix()).reshape(-1))
        return found_nK.cpu()


def _side_by_side(found: list[Term], weights: list[float], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the factors of a weighted sum of factored terms: one product for all of them."""
    pairs = [term.leaf.factors(dtype) for term in found]
    lefts = [weight * pair[0] for weight, pair in zip(weights, pairs, strict=True) if pair is not None]
    return torch.cat(lefts, 1), torch.cat([pair[1] for pair in pairs if pair is not None])


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
