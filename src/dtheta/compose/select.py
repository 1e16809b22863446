"""Selection under a budget: which (delta, block) pairs get a coefficient, when only b vectors a block may be held.

    random       b deltas, the same for all blocks
    whole        the b deltas with the largest sum over blocks of |dL/dc_i^(j)|
    blockwise    for each block the b deltas with the largest |dL/dc_i^(j)|

The gradient is that at c = 0, the base (aTLAS, arXiv 2407.02880, where the blockwise choice is best for small b). The
paper takes it in groups of b vectors, since its graph grows with them; inner products with one gradient of the weights
give all n m at once. Its fourth way, by the similarity of features of the data sets, needs data that a delta does not
carry, and is left out.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dtheta.core.seeds import generator, permutation
from dtheta.errors import ConfigError

Strategy: TypeAlias = Literal["blockwise", "whole", "random"]


def check_budget(budget: int | None, strategy: str, n: int) -> None:
    """Raise unless a budget and a strategy can be meant.

    Raises:
        ConfigError: If not.
    """
    if strategy not in ("blockwise", "whole", "random"):
        raise ConfigError(f"unknown selection {strategy!r}; expected blockwise, whole or random")
    if budget is None and strategy != "blockwise":
        raise ConfigError(f"selection={strategy!r} chooses deltas under a budget, and there is none; pass budget=...")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= n):
        raise ConfigError(f"budget is {budget!r}; expected a number of deltas from 1 to {n}, or None for all")


def pick(gradient_nm: Tensor, present: Tensor, budget: int, strategy: Strategy) -> Tensor:
    """Return, as bool (n, m), the pairs that a gradient selects; of equal ones the first.

    Args:
        gradient_nm: Gradient by the coefficients at zero.
        present: Bool (n, m): which delta changes which block; no other pair is taken.
        budget: b.
        strategy: "blockwise" or "whole".
    """
    size = gradient_nm.abs().masked_fill(~present, 0.0)
    if strategy == "whole":
        size = size.sum(1, keepdim=True).expand_as(size)
    size = size.masked_fill(~present, -1.0) if strategy == "blockwise" else size
    order = size.sort(dim=0, descending=True, stable=True).indices
    chosen = torch.zeros_like(present).scatter_(0, order[:budget], True)
    return chosen & present


def pick_randomly(present: Tensor, budget: int, seed: int) -> Tensor:
    """Return, as bool (n, m), ``budget`` deltas drawn by the seed."""
    order = permutation(present.shape[0], generator(seed, "atlas/selection"))
    chosen = torch.zeros(present.shape[0], 1, dtype=torch.bool)
    chosen[order[:budget]] = True
    return chosen & present
