"""Tangents: the derivatives of N examples' O outputs by one parameter, J (N, O, P), in the form in which they arise.

    Outer    dW = sum_t g_t a_t^T          a layer that multiplies T vectors a_t by W
    Rows     dW[i_t] += g_t                a table whose rows are gathered
    Direct   the derivatives themselves    vectors, and whatever has no structure
    Summed   one parameter that is used in several places: the derivatives of its uses add up

What the empirical tangent kernel needs of them is ``gram``: (N, N2, O, O2) inner products, or their mean over outputs
(Jacot et al. 2018, arXiv 1806.07572; structured products as in Novak et al. 2022, arXiv 2206.08720). ``core.
tangent_grams`` has the ways to compute it.

Shape legend: N examples, O outputs, T places a use has in one example (tokens, pixels), P entries of the parameter, d1
and d2 widths in and out; the parameter's entries are counted in the order in which it is stored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

#: What is kept of the O x O2 outputs: all of them, or the mean over equal ones (their trace divided by O).
Outputs: TypeAlias = Literal["full", "mean"]


class Tangent(ABC):
    """Derivatives of N examples' O outputs by one parameter."""

    @property
    @abstractmethod
    def examples(self) -> int:
        """N."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """O."""

    @property
    @abstractmethod
    def size(self) -> int:
        """P."""

    @property
    def columns(self) -> int:
        """The number of which ``entries`` takes multiples."""
        return 1

    @abstractmethod
    def entries(self, start: int, stop: int) -> Tensor:
        """Return J[:, :, start:stop] (N, O, stop - start), for multiples of ``columns``."""

    @abstractmethod
    def mapped(self, change: Callable[[Tensor], Tensor]) -> Tangent:
        """Return the same form with other tensors: what ``change`` makes of each, which keeps their roles."""

    def examples_of(self, start: int, stop: int) -> Any:
        """Return the derivatives of the examples ``start:stop``, on the same memory and of the same type."""
        return self.mapped(lambda tensor: tensor[start:stop])

    def values(self) -> Tensor:
        """Return J (N, O, P)."""
        return self.entries(0, self.size)

    def gram(self, other: Tangent | None = None, outputs: Outputs = "mean") -> Tensor:
        """Return the inner products with another parameter's use, or with these themselves.

        Args:
            other: Of the same parameter, for N2 examples; None for these.
            outputs: "full" for (N, N2, O, O2), "mean" for (N, N2), the trace over outputs divided by O.
        """
        from dtheta.core.tangent_grams import gram

        return gram(self, other, outputs)

    def accumulate(self, weights_NO: Tensor) -> Tensor:
        """Return J^T w (P,): the derivative of sum_no w_no f_no."""
        return torch.cat([torch.einsum("nop,no->p", part, weights_NO.to(part)) for part in self.parts()])

    def dot(self, direction: Tensor) -> Tensor:
        """Return J d (N, O): how outputs move along a direction, a tensor of P entries."""
        flat, start = direction.reshape(-1), 0
        total = None
        for part in self.parts():
            moved = part @ flat[start : start + part.shape[2]].to(part)
            total, start = moved if total is None else total + moved, start + part.shape[2]
        assert total is not None
        return total

    def squares(self) -> Tensor:
        """Return |J_no|^2 (N, O)."""
        return torch.stack([part.square().sum(2) for part in self.parts()]).sum(0)

    def parts(self, most: int = 1 << 24) -> Iterator[Tensor]:
        """Yield J in pieces (N, O, p) of at most about ``most`` numbers."""
        for start, stop in ranges(self.size, self.columns, self.examples * self.outputs, most):
            yield self.entries(start, stop)


def ranges(size: int, columns: int, copies: int, most: int = 1 << 24) -> Iterator[tuple[int, int]]:
    """Yield ranges of entries, multiples of ``columns``, of which ``copies`` copies have about ``most`` numbers."""
    step = columns * max(1, most // max(1, copies * columns))
    for start in range(0, size, step):
        yield start, min(start + step, size)


@dataclass(frozen=True, eq=False)
class Outer(Tangent):
    """dW = sum_t g_t a_t^T, for W (d2, d1); or its transpose, where a layer stores W as (d1, d2).

    Attributes:
        inputs: a (N, T, d1).
        gradients: g (N, O, T, d2), of each output by what comes out of the layer.
        transposed: Whether W is stored as (d1, d2).
    """

    inputs: Tensor
    gradients: Tensor
    transposed: bool = False

    @property
    def examples(self) -> int:
        """N."""
        return self.inputs.shape[0]

    @property
    def outputs(self) -> int:
        """O."""
        return self.gradients.shape[1]

    @property
    def size(self) -> int:
        """d1 d2."""
        return self.inputs.shape[2] * self.gradients.shape[3]

    @property
    def columns(self) -> int:
        """The width of a row of W."""
        return self.gradients.shape[3] if self.transposed else self.inputs.shape[2]

    def entries(self, start: int, stop: int) -> Tensor:
        """Return rows of dW."""
        first, last = start // self.columns, stop // self.columns
        n, outputs, _, _ = self.gradients.shape
        if self.transposed:
            rows = self.inputs[..., first:last].mT.unsqueeze(1) @ self.gradients
            return rows.reshape(n, outputs, -1)
        places = self.gradients.transpose(1, 2)[..., first:last].flatten(2)  # (N, T, O rows)
        return torch.bmm(places.mT, self.inputs).view(n, outputs, -1)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Outer:
        """Change inputs and gradients."""
        return Outer(change(self.inputs), change(self.gradients), self.transposed)

    def accumulate(self, weights_NO: Tensor) -> Tensor:
        """Return J^T w (P,), by one product."""
        g = torch.einsum("notd,no->ntd", self.gradients, weights_NO.to(self.gradients)).flatten(0, 1)
        a = self.inputs.flatten(0, 1)
        return (a.mT @ g if self.transposed else g.mT @ a).reshape(-1)

    def dot(self, direction: Tensor) -> Tensor:
        """Return J d (N, O), by a pass of the inputs through d as through a layer."""
        shape = (self.inputs.shape[2], self.gradients.shape[3])
        d = direction.to(self.inputs).reshape(shape if self.transposed else shape[::-1])
        moved = self.inputs @ (d if self.transposed else d.mT)
        return torch.einsum("notd,ntd->no", self.gradients, moved)


@dataclass(frozen=True, eq=False)
class Rows(Tangent):
    """dW[i_t] += g_t, for a table W (V, d).

    Attributes:
        index: i (N, T), whole numbers in [0, V).
        gradients: g (N, O, T, d).
        count: V.
    """

    index: Tensor
    gradients: Tensor
    count: int

    @property
    def examples(self) -> int:
        """N."""
        return self.index.shape[0]

    @property
    def outputs(self) -> int:
        """O."""
        return self.gradients.shape[1]

    @property
    def size(self) -> int:
        """V d."""
        return self.count * self.columns

    @property
    def columns(self) -> int:
        """D."""
        return self.gradients.shape[3]

    def entries(self, start: int, stop: int) -> Tensor:
        """Return rows of dW; those outside of ``start:stop`` go to one more row that is cut off."""
        first, count = start // self.columns, (stop - start) // self.columns
        n, outputs, places, width = self.gradients.shape
        inside = self.index - first
        inside = torch.where((inside >= 0) & (inside < count), inside, count)
        found = self.gradients.new_zeros(n, outputs, count + 1, width)
        found.scatter_add_(2, inside[:, None, :, None].expand(n, outputs, places, width), self.gradients)
        return found[:, :, :count].reshape(n, outputs, -1)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Change index and gradients."""
        return Rows(change(self.index), change(self.gradients), self.count)

    def accumulate(self, weights_NO: Tensor) -> Tensor:
        """Return J^T w (P,)."""
        g = torch.einsum("notd,no->ntd", self.gradients, weights_NO.to(self.gradients)).flatten(0, 1)
        return g.new_zeros(self.count, self.columns).index_add_(0, self.index.flatten(), g).reshape(-1)

    def dot(self, direction: Tensor) -> Tensor:
        """Return J d (N, O)."""
        moved = direction.to(self.gradients).reshape(self.count, self.columns)[self.index]
        return torch.einsum("notd,ntd->no", self.gradients, moved)


@dataclass(frozen=True, eq=False)
class Direct(Tangent):
    """The derivatives themselves.

    Attributes:
        derivatives: (N, O, P).
    """

    derivatives: Tensor

    @property
    def examples(self) -> int:
        """N."""
        return self.derivatives.shape[0]

    @property
    def outputs(self) -> int:
        """O."""
        return self.derivatives.shape[1]

    @property
    def size(self) -> int:
        """P."""
        return self.derivatives.shape[2]

    def entries(self, start: int, stop: int) -> Tensor:
        """Return a range of them."""
        return self.derivatives[..., start:stop]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Direct:
        """Change the derivatives."""
        return Direct(change(self.derivatives))


@dataclass(frozen=True, eq=False)
class Summed(Tangent):
    """The sum of several uses of one parameter, for the same examples and outputs.

    Attributes:
        uses: Two or more.
    """

    uses: tuple[Tangent, ...]

    @property
    def examples(self) -> int:
        """N."""
        return self.uses[0].examples

    @property
    def outputs(self) -> int:
        """O."""
        return self.uses[0].outputs

    @property
    def size(self) -> int:
        """P."""
        return self.uses[0].size

    @property
    def columns(self) -> int:
        """A common multiple of the uses'."""
        return math.lcm(*(use.columns for use in self.uses))

    def entries(self, start: int, stop: int) -> Tensor:
        """Return a range of the sums."""
        total = self.uses[0].entries(start, stop)
        for use in self.uses[1:]:
            total = total + use.entries(start, stop)
        return total

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Summed:
        """Change every use."""
        return Summed(tuple(use.mapped(change) for use in self.uses))

    def accumulate(self, weights_NO: Tensor) -> Tensor:
        """Return J^T w (P,)."""
        return torch.stack([use.accumulate(weights_NO) for use in self.uses]).sum(0)

    def dot(self, direction: Tensor) -> Tensor:
        """Return J d (N, O)."""
        return torch.stack([use.dot(direction) for use in self.uses]).sum(0)


def summed(uses: Sequence[Tangent]) -> Tangent:
    """Return one use as it is, several as their sum."""
    return uses[0] if len(uses) == 1 else Summed(tuple(uses))


def plain_tangent(inputs: Tensor, gradients: Tensor, transposed: bool, count: int) -> Tangent:
    """Return the derivatives by a parameter from one pass through its layer.

    Args:
        inputs: What it multiplies (N, T, d1); for a table, the rows gathered (N, T), whole numbers; for a vector,
            without width (N, T, 0).
        gradients: Of each output by what comes out (N, O, T, d2).
        transposed: Whether it is stored as (d1, d2).
        count: The length of its first axis.
    """
    if not inputs.is_floating_point():
        return Rows(inputs, gradients, count)
    if inputs.shape[2] == 0:
        return Direct(gradients.sum(2))
    return Outer(inputs, gradients, transposed)
