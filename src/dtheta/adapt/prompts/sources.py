"""Sources: trainable terms of vectors that the base does not have, and how they leave as new vectors.

    Vectors         P                                      prompt tuning, prefixes
    Reparametrized  c MLP(P), only while training          P-tuning; what is stored is its output
    OffsetTable     kappa A B                              DePT; stored in factored form

Shape legend: m virtual tokens, d features of an embedding, s positions, r rank, h hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.term import DenseTerm, Term
from dtheta.core.change import Change, New
from dtheta.core.new_lowrank import NewLowRank


class Vectors(DenseTerm):
    """The vectors themselves (m, d)."""

    materialize = False  # they displace no weight, and train at the method's own rate, not at that of full weights

    def change(self) -> Change:
        """Return a copy of the vectors."""
        return New(self.values.detach().clone())


class Reparametrized(Term):
    """Vectors that a small network makes from others: c W3 relu(W2 relu(W1 P + b1) + b2) + b3.

    Liu et al. 2021, arXiv 2103.10385. The constant c brings the output to the size that ``vectors`` have at the start,
    where the network alone would begin far below the embeddings beside which its output stands.

    Args:
        vectors: P (m, d).
        hidden: h.
        generator: Draws the network.
    """

    def __init__(self, vectors: Tensor, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        width, drawn = vectors.shape[1], []
        for fan_in, fan_out in ((width, hidden), (hidden, hidden), (hidden, width)):
            layer = nn.Linear(fan_in, fan_out, device="meta", dtype=torch.float32).to_empty(device="cpu")
            bound = 1 / math.sqrt(fan_in)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            drawn.append(layer)
        self.values = nn.Parameter(vectors)
        self.network = nn.Sequential(drawn[0], nn.ReLU(), drawn[1], nn.ReLU(), drawn[2]).to(vectors.dtype)
        self.scale = 1.0
        with torch.no_grad():
            size = float(self.matrix().square().mean().sqrt())
            self.scale = float(vectors.square().mean().sqrt()) / size if size > 0 else 1.0

    def matrix(self) -> Tensor:
        """Return the output of the network (m, d)."""
        return self.scale * self.network(self.values)

    def change(self) -> Change:
        """Return the output; the network is a device of training and is not stored."""
        return New(self.matrix().detach().clone())


class OffsetTable(Term):
    """kappa A B: a row of offsets for each of s positions.

    Args:
        left: A (s, r).
        right: B (r, d).
        scale: kappa.
    """

    def __init__(self, left: Tensor, right: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.left = nn.Parameter(left)
        self.right = nn.Parameter(right)
        self.scale = scale

    def matrix(self) -> Tensor:
        """Return the table (s, d)."""
        return self._weighed(self.left) @ self.right

    def rows(self, index: Tensor) -> Tensor:
        """Return rows of the table by gathering rows of A."""
        return F.embedding(index, self._weighed(self.left)) @ self.right

    def change(self) -> Change:
        """Return the table in factored form."""
        left, right = self.left.detach().clone(), self.right.detach().clone()
        core = None if self.scale == 1.0 else left.new_full((left.shape[1],), self.scale, dtype=torch.float64)
        return NewLowRank(left, right, core)

    def _weighed(self, left: Tensor) -> Tensor:
        return left if self.scale == 1.0 else left * self.scale


def restored(change: Change) -> Term:
    """Return the trainable term that goes on from a new vector, whatever made it."""
    if not isinstance(change, NewLowRank):
        return Vectors(change.dense().clone())
    core = change.core
    if core is None or not core.numel() or not bool((core != core[:1]).any()):
        scale = 1.0 if core is None or not core.numel() else float(core[0])
        return OffsetTable(change.left.clone(), change.right.clone(), scale)
    left, right = change.factors()
    return OffsetTable(left.to(change.left.dtype).clone(), right.to(change.right.dtype).clone())


def length_of(term: Term) -> int:
    """Return the number of rows of a source, without computing it."""
    found: Mapping[str, Tensor] = dict(term.named_parameters(recurse=False))
    return found["left" if "left" in found else "values"].shape[0]


def width_of(term: Term) -> int:
    """Return the number of features of a source, without computing it."""
    found: Mapping[str, Tensor] = dict(term.named_parameters(recurse=False))
    return found["right" if "right" in found else "values"].shape[1]
