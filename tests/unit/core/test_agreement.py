"""Agreement and conflict of signs against a count on dense tensors, for every form of change."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.agreement import sign_agreement
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense
from dtheta.core.combination import add, scale
from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.rows import Rows
from dtheta.core.ternary import Ternary, ternary
from dtheta.errors import ConfigError, ShapeMismatch

SHAPE = (37, 53)


def signs(seed: int, factor: float = 0.5) -> Ternary:
    drawn = torch.randint(-1, 2, SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return ternary(Planes.from_signs(drawn), torch.tensor(factor), SHAPE)


def forms() -> list[Change]:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    low = LowRank(normal(37, 3), normal(3, 53))
    return [
        Dense(normal(*SHAPE)),
        low,
        signs(1),
        signs(2, -0.25),
        signs(3, 0.0),
        Rows(torch.tensor([2, 5, 30]), normal(3, 53), SHAPE),
        Block(Dense(normal(10, 53)), 0, 4, SHAPE),
        scale(low, -2.0),
        add([low, signs(4)]),
    ]


def counted(changes: list[Change]) -> tuple[torch.Tensor, torch.Tensor]:
    flat = torch.stack([change.dense().double().reshape(-1).sign() for change in changes])
    product = flat[:, None] * flat[None]
    return (product > 0).sum(2), (product < 0).sum(2)


@pytest.mark.parametrize("size", [1 << 18, 200, 1])
def test_all_forms_against_a_dense_count(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.core.change._SLAB", size)
    changes = forms()
    for found, wanted in zip(sign_agreement(changes), counted(changes), strict=True):
        assert found.dtype == torch.int64
        assert torch.equal(found, wanted)


def test_ternary_ones_on_their_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[Change] = [signs(1), signs(2, -0.25), signs(3)]
    monkeypatch.setattr("dtheta.core.agreement._by_slabs", lambda _: pytest.fail("it assembled slabs"))
    for found, wanted in zip(sign_agreement(changes), counted(changes), strict=True):
        assert torch.equal(found, wanted)


def test_rows_with_scales_of_their_own() -> None:
    by_row = Ternary(signs(1).positive, signs(1).negative, torch.linspace(-1, 1, 37), SHAPE)
    changes: list[Change] = [by_row, signs(2)]
    for found, wanted in zip(sign_agreement(changes), counted(changes), strict=True):
        assert torch.equal(found, wanted)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="no changes"):
        sign_agreement([])
    with pytest.raises(ShapeMismatch, match="share no entry"):
        sign_agreement([signs(1), Dense(torch.ones(53, 37))])
