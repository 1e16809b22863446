"""What a delta did to the value vectors of a concept: the intrinsic side of erasure.

    jaccard    |A and B| / |A or B|,   A, B: top tokens of a vector before and after, through the unembedding of each
    cosine     a . b / (|a| |b|); 0 where nothing is left of b
    distance   |a - b| / |a|
    overlap    mean squared cosine of the principal angles between the spans of all vectors before and after

1, 1, 0 and 1 say that nothing changed: a network that behaves as if it had forgotten and still holds its traces can be
made to remember. Source: ConceptVectors (arXiv 2406.11614), whose distance is absolute and whose k is 200; the span is
ours, since in small networks a concept sits in many vectors. A set is also read by how well its tokens are ranked:

    rank       median over the concept's words of a word's best rank among all tokens, over all vectors of the set

Shape legend: K vectors, D features, V tokens, R dimensions of a span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dtheta.core.apply import applied
from dtheta.core.arguments import whole
from dtheta.core.delta import Delta
from dtheta.probe.ablation import vector_of
from dtheta.probe.decoder import Decoder, Norm, open_decoder
from dtheta.probe.value_vector import ValueVector, value_vectors

TOP = 200


@dataclass(frozen=True)
class TraceChange:
    """What became of one value vector, read on its side.

    Attributes:
        vector: Which.
        jaccard: Of its top tokens, in [0, 1].
        cosine: Of the vector, in [-1, 1]; 0 where nothing is left.
        distance: Of the vector, over its length before.
        before: Ids of its top tokens before, the first first.
        after: Ids after; none where nothing is left.
    """

    vector: ValueVector
    jaccard: float
    cosine: float
    distance: float
    before: tuple[int, ...]
    after: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, the vector as text."""
        return {**asdict(self), "vector": str(self.vector)}


@dataclass(frozen=True)
class TraceReport:
    """What became of the value vectors of a concept.

    Attributes:
        changes: Of each.
        overlap: Of their spans, in [0, 1].
        rank_before: Median best rank of the concept's words, from 1; None without words.
        rank_after: The same after.
    """

    changes: tuple[TraceChange, ...]
    overlap: float
    rank_before: float | None = None
    rank_after: float | None = None

    def mean(self, name: str) -> float:
        """Return the mean over the vectors of ``"jaccard"``, ``"cosine"`` or ``"distance"``."""
        return float(np.mean([getattr(change, name) for change in self.changes]))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, means first."""
        means = {name: self.mean(name) for name in ("jaccard", "cosine", "distance")}
        ranks = {"rank_before": self.rank_before, "rank_after": self.rank_after}
        return {**means, "overlap": self.overlap, **ranks, "changes": [change.to_dict() for change in self.changes]}


def trace_report(
    model: nn.Module,
    delta: Delta,
    vectors: Sequence[ValueVector],
    *,
    words: Sequence[Sequence[int]] = (),
    top: int = TOP,
    norm: Norm = "folded",
) -> TraceReport:
    """Compare the value vectors of a concept before and after a delta.

    Args:
        model: The decoder, without the delta; it is as it was when this returns.
        delta: What was done.
        vectors: The concept's, with the side that each is read on.
        words: The concept's words, each as the ids of the tokens that stand for it; for the ranks.
        top: Tokens compared.
        norm: What vectors are read through (see ``decoder``).

    Raises:
        ConfigError: If there are no vectors, or none at an address.
        BaseMismatch: If the delta is another model's.
    """
    vectors = value_vectors(vectors)
    before = _Reading(open_decoder(model), vectors, norm)
    with applied(model, delta):
        after = _Reading(open_decoder(model), vectors, norm)
    most = min(whole(top, "top", least=1), before.vocabulary)
    changes = tuple(_change(vector, before, after, row, most) for row, vector in enumerate(vectors))
    ranks = (before.rank(words), after.rank(words)) if words else (None, None)
    return TraceReport(changes, overlap(before.values_KD, after.values_KD), *ranks)


class _Reading:
    """Vectors of one state of a model, as they are and through its unembedding."""

    def __init__(self, decoder: Decoder, vectors: Sequence[ValueVector], norm: Norm) -> None:
        self.values_KD = torch.stack([v.sign * vector_of(decoder, v).double() for v in vectors])
        written_KD = [decoder.written(v.layer, x, norm) for v, x in zip(vectors, self.values_KD.float(), strict=True)]
        self.logits_KV = torch.stack(written_KD) @ decoder.readout(norm).T
        self.vocabulary = self.logits_KV.shape[1]

    def tokens(self, row: int, top: int) -> tuple[int, ...]:
        """Return the ids of a vector's top tokens; none of a vector that is zero."""
        if not bool(self.values_KD[row].any()):
            return ()
        order = torch.argsort(self.logits_KV[row], descending=True, stable=True)
        return tuple(order[:top].tolist())

    def rank(self, words: Sequence[Sequence[int]]) -> float:
        """Return the median over words of the best rank of any of a word's tokens in any vector."""
        order_KV = torch.argsort(self.logits_KV, dim=1, descending=True, stable=True)
        ranks_KV = torch.empty_like(order_KV).scatter_(
            1, order_KV, torch.arange(1, self.vocabulary + 1).expand_as(order_KV)
        )
        alive_K = self.values_KD.any(dim=1)
        ranks_KV[~alive_K] = self.vocabulary  # what is zero ranks nothing
        return float(np.median([int(ranks_KV[:, list(ids)].min()) for ids in words if len(ids)]))


def _change(vector: ValueVector, before: _Reading, after: _Reading, row: int, top: int) -> TraceChange:
    a_D, b_D = before.values_KD[row], after.values_KD[row]
    old, new = before.tokens(row, top), after.tokens(row, top)
    both = len(set(old) & set(new))
    lengths = float(a_D.norm() * b_D.norm())
    cosine = min(1.0, max(-1.0, float(a_D @ b_D) / lengths)) if lengths else 0.0
    distance = float((a_D - b_D).norm() / a_D.norm()) if bool(a_D.any()) else 0.0
    union = len(old) + len(new) - both
    return TraceChange(vector, both / union if union else 1.0, cosine, distance, old, new)


def overlap(before_KD: Tensor, after_KD: Tensor) -> float:
    """Return the mean squared cosine of the principal angles between the spans of two sets of vectors.

    The mean is over the dimensions of the span before: directions that are gone count 0.
    """
    old_DR, new_DR = _basis(before_KD), _basis(after_KD)
    if old_DR.shape[1] == 0:
        return 1.0
    return float((old_DR.T @ new_DR).square().sum() / old_DR.shape[1])


def _basis(values_KD: Tensor) -> Tensor:
    """Return an orthonormal basis (D, R) of the span."""
    left, S, _ = torch.linalg.svd(values_KD.T.double(), full_matrices=False)
    tiny = S.max() * max(values_KD.shape) * torch.finfo(torch.float32).eps if S.numel() else 0.0
    return left[:, S > tiny]
