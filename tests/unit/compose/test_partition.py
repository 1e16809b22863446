"""The partition is a function of seed, name and element; pinned, even, and independent between blocks and seeds."""

from __future__ import annotations

import pytest
import torch

from dtheta.compose.partition import part_ids
from dtheta.core.seeds import key

_MASK = (1 << 64) - 1


def reference(seed: int, name: str, parts: int, element: int) -> int:
    """splitmix64 in Python's integers."""
    z = ((element + 1) * 0x9E3779B97F4A7C15 + key(seed, f"atlas/partition/{name}")) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    z ^= z >> 31
    return ((z >> 33) * parts) >> 31


@pytest.mark.parametrize("parts", [1, 2, 20, 1200])
def test_parts_are_those_of_splitmix64(parts: int) -> None:
    assert part_ids(3, "layer.weight", parts, 0, 500).tolist() == [
        reference(3, "layer.weight", parts, e) for e in range(500)
    ]


def test_a_range_is_cut_out_of_the_whole() -> None:
    whole = part_ids(0, "w", 7, 0, 10_000)
    assert torch.equal(part_ids(0, "w", 7, 1234, 9999), whole[1234:9999])
    assert part_ids(0, "w", 7, 5, 5).numel() == 0


def test_the_same_seed_and_name_split_alike_and_others_do_not() -> None:
    one = part_ids(0, "w", 4, 0, 1000)
    assert torch.equal(one, part_ids(0, "w", 4, 0, 1000))
    for other in (part_ids(1, "w", 4, 0, 1000), part_ids(0, "v", 4, 0, 1000)):
        assert 0.15 < float((one == other).double().mean()) < 0.35  # a quarter agree by chance


def test_parts_are_even() -> None:
    counts = torch.bincount(part_ids(0, "w", 10, 0, 100_000), minlength=10).double()
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 30  # chi-square of 9 degrees: 30 is beyond 99.95 %
