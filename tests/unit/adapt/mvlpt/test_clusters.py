"""Average linkage against SciPy's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.adapt.mvlpt.clusters import average_linkage
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch


def similarity(count: int, seed: int) -> Tensor:
    values = torch.randn(count, count, generator=generator(seed, "similarity"), dtype=torch.float64)
    return values + values.T


@pytest.mark.parametrize("seed", range(5))
def test_clusters_equal_scipy(seed: int) -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    matrix = similarity(9, seed)
    distance = (matrix.max() - matrix)[tuple(torch.triu_indices(9, 9, 1))].numpy()
    tree = hierarchy.linkage(distance, "average")
    for count in range(1, 10):
        labels = hierarchy.fcluster(tree, count, "maxclust")
        wanted = sorted(tuple(i for i in range(9) if labels[i] == label) for label in set(labels))
        assert list(average_linkage(matrix, count)) == wanted


def test_what_is_alike_stands_together() -> None:
    matrix = torch.full((5, 5), -1.0)
    for group in ((0, 3), (1, 2, 4)):
        for i in group:
            for j in group:
                matrix[i, j] = 1.0
    assert average_linkage(matrix, 2) == ((0, 3), (1, 2, 4))
    assert average_linkage(matrix, 5) == ((0,), (1,), (2,), (3,), (4,))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="square"):
        average_linkage(torch.zeros(2, 3), 1)
    with pytest.raises(ConfigError, match="both ways"):
        average_linkage(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), 1)
    with pytest.raises(NonFinite, match="NaN"):
        average_linkage(torch.tensor([[0.0, torch.nan], [torch.nan, 0.0]]), 1)
    with pytest.raises(ConfigError, match="2 tasks make no 3"):
        average_linkage(torch.zeros(2, 2), 3)
