"""Blocks of cells: sorted, all of them, less the truth, and the caller's members untouched."""

from __future__ import annotations

import pytest
import torch

from dtheta.score.ensemble import blocks
from tests.unit.score.ensemble.plain import drawn


@pytest.mark.parametrize("size", [1, 9 * 7, 1 << 20])
@pytest.mark.parametrize("path", ["sorted_blocks", "_on_device"])
def test_every_cell_comes_once_with_its_members_sorted(path: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK", size)
    monkeypatch.setattr(blocks, "_DEVICE_BLOCK", size)
    x, y = drawn(9, 20, dtype=torch.float32), drawn(20, seed=1)
    before = x.clone()
    for truth in (None, y):
        found = list(getattr(blocks, path)(x, truth))
        assert [n for part, _ in found for n in range(20)[part]] == list(range(20))
        expected = (x if truth is None else x - truth).T.sort(dim=1).values
        assert torch.equal(torch.cat([values for _, values in found]), expected)
    assert torch.equal(x, before)


def test_one_member_or_one_cell_is_copied_too() -> None:
    for shape in ((1, 5), (5, 1)):
        x = drawn(*shape)
        before = x.clone()
        for _, values in blocks.sorted_blocks(x):
            values.zero_()
        assert torch.equal(x, before)
