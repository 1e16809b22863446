"""Selection: by |gradient|, block by block or whole, among the pairs that exist."""

from __future__ import annotations

import pytest
import torch

from dtheta.compose.select import check_budget, pick, pick_randomly
from dtheta.errors import ConfigError

GRADIENT = torch.tensor([[1.0, -9.0, 0.0], [-2.0, 1.0, 0.0], [0.5, 3.0, 5.0]])
ALL = torch.ones(3, 3, dtype=torch.bool)


def test_blockwise_takes_the_largest_of_each_block() -> None:
    assert pick(GRADIENT, ALL, 1, "blockwise").tolist() == [
        [False, True, False],
        [True, False, False],
        [False] * 2 + [True],
    ]
    assert pick(GRADIENT, ALL, 2, "blockwise").int().sum(0).tolist() == [2, 2, 2]
    assert pick(GRADIENT, ALL, 2, "blockwise")[:, 2].tolist() == [True, False, True]  # of equal ones the first


def test_whole_takes_the_largest_sums() -> None:
    assert pick(GRADIENT, ALL, 1, "whole").tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert pick(GRADIENT, ALL, 2, "whole").any(1).tolist() == [True, False, True]


def test_only_pairs_that_exist_are_taken() -> None:
    present = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    found = pick(torch.zeros(3, 3), present, 1, "blockwise")
    assert found.int().sum(0).tolist() == [1, 1, 1] and bool((found & ~present).sum() == 0)
    assert pick(GRADIENT, present, 1, "whole").tolist() == [[False] * 3, [False] * 3, [True] * 3]


def test_random_deltas_depend_on_the_seed_alone() -> None:
    present = torch.ones(30, 2, dtype=torch.bool)
    one = pick_randomly(present, 5, 0)
    assert torch.equal(one, pick_randomly(present, 5, 0)) and int(one.any(1).sum()) == 5
    assert not torch.equal(one, pick_randomly(present, 5, 1))


def test_budgets_that_cannot_be_meant() -> None:
    check_budget(None, "blockwise", 3)
    for budget in (0, 4, True, 1.0):
        with pytest.raises(ConfigError, match="budget"):
            check_budget(budget, "whole", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown selection"):
        check_budget(1, "features", 3)
    for strategy in ("whole", "random"):
        with pytest.raises(ConfigError, match=f"selection='{strategy}' chooses deltas under a budget"):
            check_budget(None, strategy, 3)
