"""Term: the trainable displacement D of one parameter, in the form its method trains.

A term knows how to act without becoming a matrix, how to become one, and how to leave as a Change:

    product(x)     x (..., n) -> x D^T (..., m)       behind a linear layer that stores W as (out, in)
    transposed(x)  x (..., m) -> x D   (..., n)       behind one that stores it as (in, out)
    rows(index)    D[index]                           behind an embedding
    matrix()       D (m, n)                           where a module hands its weight to a function
    pair()         D = pair[0] @ pair[1]              where the term is factored
    change()       the Change to store

Shape legend: D (m, n), r rank, q columns of the pair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.change import Change, Dense
from dtheta.core.lowrank import LowRank
from dtheta.core.spectral import Spectral
from dtheta.core.tangents import Direct, Outer, Rows, Tangent, plain_tangent
from dtheta.errors import UnsupportedLayer

# A copy that is made when either side is first written to: else most of what attaching from the cache costs. torch
# calls it private, so where it is gone the copy is made at once.
_copy = getattr(torch, "_lazy_clone", torch.clone)
_ROWS = 256  # of a product that is looked at in parts


def _kept(tensor: Tensor) -> Tensor:
    """Return the values of a tensor as they are now, whatever is written to it later."""
    return _copy(tensor.detach())


class Term(nn.Module, ABC):
    """Displacement of one parameter, as a module whose parameters train."""

    #: A term that is a matrix anyway adds itself to the weight: one product in place of two.
    materialize: bool = False
    #: Whether ``tangents`` takes the derivatives by the entries of the parameter, not the vectors that meet there.
    by_entries: bool = False

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return D (m, n)."""

    @abstractmethod
    def change(self) -> Change:
        """Return D as a Change of the (m, n) matrix, detached and copied."""

    def is_zero(self) -> bool:
        """Tell whether D is zero throughout."""
        return not bool(self.matrix().any())

    def product(self, x: Tensor) -> Tensor:
        """Return x D^T (..., m) for x (..., n)."""
        return F.linear(x, self.matrix())

    def transposed(self, x: Tensor) -> Tensor:
        """Return x D (..., n) for x (..., m)."""
        return x @ self.matrix()

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows D[index] (..., n)."""
        return F.embedding(index, self.matrix())

    def triple(self) -> Triple | None:
        """Return the factors from which ``product.py`` makes output and gradients at once; None to act by itself."""
        return None

    def tangents(self, inputs: Tensor, gradients: Tensor, transposed: bool = False) -> list[Tangent]:
        """Return the derivatives of N examples' O outputs by what trains, from one pass through the layer.

        Args:
            inputs: What the parameter multiplies (N, T, d1); for a table, the rows gathered (N, T), whole numbers; for
                a vector, without width (N, T, 0).
            gradients: Of each output by the layer's output (N, O, T, d2).
            transposed: Whether the layer computes x W.

        Returns:
            One for each parameter that requires a gradient, in their order.

        Raises:
            UnsupportedLayer: If the term has no rule for it.
        """
        raise UnsupportedLayer(f"a {type(self).__name__} has no rule for its derivatives from a captured pass")

    def _trained(self, tangents: Mapping[str, Tangent]) -> list[Tangent]:
        """Return the tangents of the parameters that require a gradient, in their order."""
        return [tangents[name] for name, p in self.named_parameters() if p.requires_grad]


class DenseTerm(Term):
    """D itself, starting at zero; for full fine-tuning and for vectors."""

    materialize = True

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def matrix(self) -> Tensor:
        """Return D."""
        return self.values

    def change(self) -> Change:
        """Return a copy of D."""
        return Dense(self.values.detach().clone())

    def tangents(self, inputs: Tensor, gradients: Tensor, transposed: bool = False) -> list[Tangent]:
        """Return those of the parameter itself; see ``Term.tangents``."""
        return self._trained({"values": plain_tangent(inputs, gradients, transposed, len(self.values))})


@dataclass(frozen=True)
class Triple:
    """c L diag(s) R, less the same of the start where there is one.

    Attributes:
        left: L (m, r).
        right: R (r, n).
        core: s (r,), or None for ones.
        scale: c.
        start: L0, s0, R0, or None.
    """

    left: Tensor
    right: Tensor
    core: Tensor | None
    scale: float
    start: tuple[Tensor, Tensor | None, Tensor] | None = None

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return two matrices whose product is D.

        With a start, c (L s R - L0 s0 R0) = c (L s - L0 s0) R + c (L0 s0) (R - R0): the differences are those of the
        small factors. Before the first step both are exact zeros, and so is D; after it D is as accurate as it is
        large, where the difference of two products would be as inaccurate as W is large.
        """
        left = self._weigh(self.left, self.core)
        if self.start is None:
            return left, self.right
        start = self._weigh(self.start[0], self.start[1])
        return torch.cat([left - start, start], -1), torch.cat([self.right, self.right - self.start[2]], -2)

    def _weigh(self, left: Tensor, core: Tensor | None) -> Tensor:
        if core is None:
            return left if self.scale == 1.0 else left * self.scale
        return left * (core if self.scale == 1.0 else core * self.scale).unsqueeze(-2)


class FactoredTerm(Term):
    """D = c (L diag(s) R - L0 diag(s0) R0): the trained product less what it was at the start.

    The start is subtracted here, beside the base, and never from the base.

    Args:
        left: L (m, r).
        right: R (r, n).
        core: s (r,), or None for ones.
        scale: c.
        subtract_start: Whether L0, s0, R0 are copies of the factors; False where the product starts at zero.
        start: L0, R0, s0, when they are not copies of the factors (training that goes on from a file).
        dropout: Probability with which entries of x are dropped on the way into the factors while training.
    """

    left0: Tensor | None
    right0: Tensor | None
    core0: Tensor | None

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        core: Tensor | None = None,
        *,
        scale: float = 1.0,
        subtract_start: bool = False,
        start: tuple[Tensor, Tensor, Tensor | None] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.left = nn.Parameter(left)
        self.right = nn.Parameter(right)
        self.core = None if core is None else nn.Parameter(core)
        self.scale = scale
        self.dropout = dropout
        if subtract_start and start is None:
            start = (_kept(left), _kept(right), None if core is None else _kept(core))
        # as register_buffer, without its search for attributes of these names: a model has hundreds of terms
        self._buffers.update(zip(("left0", "right0", "core0"), start or (None, None, None), strict=True))

    def triple(self) -> Triple | None:
        """Return the factors; None while inputs are dropped, which no displacement of a weight does."""
        return None if self.dropout and self.training else self._triple()

    def _triple(self) -> Triple:
        if self.left0 is None or self.right0 is None:
            return Triple(self.left, self.right, self.core, self.scale)
        return Triple(self.left, self.right, self.core, self.scale, (self.left0, self.core0, self.right0))

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return (m, q) and (q, n) whose product is D; exactly zero at the start. See ``Triple.pair``."""
        return self._triple().pair()

    def product(self, x: Tensor) -> Tensor:
        """Return x D^T."""
        left, right = self.pair()
        return F.linear(F.linear(self._enter(x), right), left)

    def transposed(self, x: Tensor) -> Tensor:
        """Return x D."""
        left, right = self.pair()
        return (self._enter(x) @ left) @ right

    def rows(self, index: Tensor) -> Tensor:
        """Return rows of D by gathering rows of the left factor."""
        left, right = self.pair()
        return F.embedding(index, left) @ right

    def matrix(self) -> Tensor:
        """Return D as a matrix."""
        left, right = self.pair()
        return left @ right

    def is_zero(self) -> bool:
        """Tell whether D is zero throughout; a few rows are made at a time, as there may be no room for all of them."""
        left, right = self.pair()
        return not any(bool((rows @ right).any()) for rows in left.split(_ROWS))

    def _enter(self, x: Tensor) -> Tensor:
        """Bring x to the dtype of the factors (autocast does so by itself), and drop entries while training."""
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.left.dtype)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def change(self) -> Change:
        """Return D as stacked factors ``[L L0]``, ``[c s, -c s0]``, ``[R; R0]``: exact, of rank 2r or r."""
        left: list[Tensor] = [self.left]
        right: list[Tensor] = [self.right]
        core = [self._scaled_core(self.core)]
        if self.left0 is not None and self.right0 is not None:
            left.append(self.left0)
            right.append(self.right0)
            core.append(-self._scaled_core(self.core0))
        ones = len(core) == 1 and self.core is None and self.scale == 1.0
        joined = None if ones else torch.cat(core, -1).detach().clone()
        return self._product(torch.cat(left, -1).detach().clone(), torch.cat(right, -2).detach().clone(), joined)

    def _product(self, left: Tensor, right: Tensor, core: Tensor | None) -> Change:
        return LowRank(left, right, core)

    def tangents(self, inputs: Tensor, gradients: Tensor, transposed: bool = False) -> list[Tangent]:
        """Return dL = c g (s R a)^T, dR = c (s L^T g) a^T, ds = c sum_t (L^T g) (R a); see ``Term.tangents``."""
        if self.dropout and self.training:
            raise UnsupportedLayer("inputs are dropped at random on the way into these factors; call .eval() first")
        left, right = self.left.detach().to(gradients), self.right.detach().to(gradients)
        core = None if self.core is None else self.core.detach().to(gradients)
        down, up = _through(inputs, gradients, left, right, transposed)
        if not inputs.is_floating_point():
            d_left: Tangent = Rows(inputs, self._weighed(up, core), len(left))
            d_right: Tangent = Outer(self._weighed(down, core), gradients, transposed=True)
        elif transposed:
            d_left = Outer(inputs, self._weighed(up, core), transposed=True)
            d_right = Outer(self._weighed(down, core), gradients, transposed=True)
        else:
            d_left = Outer(self._weighed(down, core), gradients)
            d_right = Outer(inputs, self._weighed(up, core))
        d_core = Direct(self.scale * torch.einsum("notr,ntr->nor", up, down))
        return self._trained({"left": d_left, "right": d_right, "core": d_core})

    def _weighed(self, x: Tensor, core: Tensor | None) -> Tensor:
        return x * (self.scale if core is None else core * self.scale)

    def _scaled_core(self, core: Tensor | None) -> Tensor:
        if core is None:
            return self.left.new_full((*self.left.shape[:-2], self.left.shape[-1]), self.scale)
        # in float64, so that dividing by c gives back the very numbers, and training goes on from a file without a step
        return core if self.scale == 1.0 else core.double() * self.scale


def _through(inputs: Tensor, gradients: Tensor, left: Tensor, right: Tensor, transposed: bool) -> tuple[Tensor, Tensor]:
    """Return R a and L^T g, or L^T a and R g where the layer computes x W: what meets between the two factors."""
    if not inputs.is_floating_point():  # rows of L are gathered, and go through R
        return F.embedding(inputs, left), F.linear(gradients, right)
    if transposed:
        return inputs @ left, F.linear(gradients, right)
    return F.linear(inputs, right), gradients @ left


class SpectralTerm(Term):
    """D = U diag(shift) V^T: only the shift trains.

    Acting by itself, ``product`` picks the cheaper of two equal routes by the number of tokens T: through the factors,
    or with D made first where T > m n / (m + n).
    """

    left: Tensor
    right: Tensor

    def __init__(self, left: Tensor, right: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.shift = nn.Parameter(shift)

    def triple(self) -> Triple:
        """Return U, the shifts and V^T."""
        return Triple(self.left, self.right, self.shift, 1.0)

    def product(self, x: Tensor) -> Tensor:
        """Return x D^T."""
        x = self._enter(x)
        if prefers_matrix(x, self.left.shape[0], self.right.shape[1]):
            return F.linear(x, self.matrix())
        return F.linear(F.linear(x, self.right) * self.shift, self.left)

    def transposed(self, x: Tensor) -> Tensor:
        """Return x D."""
        x = self._enter(x)
        if prefers_matrix(x, self.left.shape[0], self.right.shape[1]):
            return x @ self.matrix()
        return ((x @ self.left) * self.shift) @ self.right

    def rows(self, index: Tensor) -> Tensor:
        """Return rows of D by gathering rows of U."""
        return (F.embedding(index, self.left) * self.shift) @ self.right

    def matrix(self) -> Tensor:
        """Return D as a matrix."""
        return (self.left * self.shift) @ self.right

    def is_zero(self) -> bool:
        """Tell whether no singular value moves."""
        return not bool(self.shift.any())

    def tangents(self, inputs: Tensor, gradients: Tensor, transposed: bool = False) -> list[Tangent]:
        """Return sum_t (U^T g) (V^T a); see ``Term.tangents``."""
        down, up = _through(inputs, gradients, self.left.to(gradients), self.right.to(gradients), transposed)
        return self._trained({"shift": Direct(torch.einsum("notr,ntr->nor", up, down))})

    def _enter(self, x: Tensor) -> Tensor:
        return x if torch.is_autocast_enabled(x.device.type) else x.to(self.left.dtype)

    def change(self) -> Change:
        """Return the shifts with their basis at hand; a file stores the shifts and a probe."""
        shape = (self.left.shape[0], self.right.shape[1])
        return Spectral(self.shift.detach().clone(), shape, self.left, self.right)


def prefers_matrix(x: Tensor, m: int, n: int) -> bool:
    """Tell whether an (m, n) displacement of any rank is cheaper made into a matrix than kept in factors.

    Through factors of rank r, T tokens cost T r (m + n) multiplications a pass; making the matrix costs r m n once,
    and then nothing where it is added to a weight that is multiplied anyway.
    """
    return x.shape[:-1].numel() * (m + n) > m * n
