"""Clusters of tasks by average linkage on a symmetric similarity.

    s(A, B) = mean over a in A, b in B of s_ab     the two clusters with the largest are joined, until few enough remain

Plain O(T^3): a study of transfer has tens of tasks. Sokal and Michener 1958 (UPGMA). T tasks.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch


def average_linkage(similarity_TT: Tensor, count: int) -> tuple[tuple[int, ...], ...]:
    """Return ``count`` clusters of indices, each in order, the one with the smallest index first.

    Args:
        similarity_TT: Symmetric; the diagonal does not count.
        count: Of clusters, 1 to T.

    Raises:
        ShapeMismatch: If it is no square matrix.
        NonFinite: If a similarity is NaN or infinite.
        ConfigError: If it is not symmetric, or there are not so many tasks.
    """
    if similarity_TT.ndim != 2 or similarity_TT.shape[0] != similarity_TT.shape[1]:
        raise ShapeMismatch(f"expected a square matrix over tasks, found {tuple(similarity_TT.shape)}")
    between_TT = similarity_TT.double().clone().fill_diagonal_(0.0)
    if not bool(torch.isfinite(between_TT).all()):
        raise NonFinite("a similarity is NaN or infinite")
    if not torch.allclose(between_TT, between_TT.T):
        raise ConfigError("a similarity of clusters goes both ways; pass (g + g.T) / 2")
    if whole(count, "count", 1) > len(between_TT):
        raise ConfigError(f"{len(between_TT)} tasks make no {count} clusters")
    clusters = [[task] for task in range(len(between_TT))]
    while len(clusters) > count:
        a, b = max(
            itertools.combinations(range(len(clusters)), 2),
            key=lambda pair: float(between_TT[clusters[pair[0]]][:, clusters[pair[1]]].mean()),
        )
        clusters[a] += clusters.pop(b)  # b > a, so a stays where it is
    return tuple(sorted(tuple(sorted(cluster)) for cluster in clusters))
