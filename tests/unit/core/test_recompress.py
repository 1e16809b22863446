"""recompress: against the dense singular value decomposition, for every kind of change."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.block import Block
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.recompress import recompress
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError


def draw(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, f"recompress/{shape}", index), dtype=torch.float64)


def low(m: int, n: int, r: int, index: int = 0) -> LowRank:
    return LowRank(draw(m, r, index=index), draw(r, n, index=index))


def best(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, float]:
    u, s, v = torch.linalg.svd(dense)
    return (u[:, :rank] * s[:rank]) @ v[:rank], float(s[rank:].square().sum() / s.square().sum())


def test_a_sum_comes_back_to_the_best_approximation_with_its_loss_told() -> None:
    total = Delta({"w": low(12, 9, 3)}) + 0.5 * Delta({"w": low(12, 9, 3, index=1)})
    kept = recompress(total, 4)
    expected, lost = best(total["w"].dense(), 4)
    assert kept["w"].rank == 4
    torch.testing.assert_close(kept["w"].dense(), expected)
    assert kept.provenance.settings["discarded"]["w"] == pytest.approx(lost, rel=1e-9)


def test_enough_rank_loses_nothing_and_two_halves_of_one_delta_are_one_delta() -> None:
    half = 0.5 * Delta({"w": low(10, 8, 2)})
    whole = recompress(half + half, 2)
    torch.testing.assert_close(whole["w"].dense(), low(10, 8, 2).dense())
    assert whole.provenance.settings["discarded"]["w"] < 1e-20


def test_energy_keeps_the_smallest_rank_that_holds_it() -> None:
    s = torch.tensor([10.0, 3.0, 1.0, 0.1], dtype=torch.float64)
    change = LowRank(torch.linalg.qr(draw(9, 4)).Q * s, torch.linalg.qr(draw(7, 4)).Q.T.contiguous())
    shares = s.square().cumsum(0) / s.square().sum()
    assert recompress(Delta({"w": change}), float(shares[1]) - 1e-6)["w"].rank == 2
    assert recompress(Delta({"w": change}), float(shares[1]) + 1e-6)["w"].rank == 3


def test_blocks_of_a_fused_projection_are_recompressed_one_by_one() -> None:
    blocks = [Block(low(4, 6, 3, index=i), 0, 4 * i, (12, 6)) for i in range(3)]
    kept = recompress(Delta({"w": blocks[0] + blocks[1] + blocks[2]}), 2)["w"]
    for i, block in enumerate(blocks):
        expected, _ = best(block.term.dense(), 2)
        torch.testing.assert_close(kept.dense()[4 * i : 4 * i + 4], expected)


def test_a_convolution_keeps_its_shape() -> None:
    change = LowRank(draw(6, 4), draw(4, 27), full_shape=(6, 3, 3, 3))
    kept = recompress(Delta({"w": change}), 2)["w"]
    expected, _ = best(change.matrix(), 2)
    assert kept.shape == (6, 3, 3, 3)
    torch.testing.assert_close(kept.matrix(), expected)


def test_dense_matrices_are_factored_and_other_kinds_left_alone() -> None:
    rows = Rows(torch.tensor([1, 4]), draw(2, 5), (6, 5))
    changes = {"dense": Dense(draw(7, 5)), "bias": Dense(draw(5)), "rows": rows, "prompt": New(draw(3, 5))}
    kept = recompress(Delta(changes), 2)
    expected, _ = best(changes["dense"].dense(), 2)
    torch.testing.assert_close(kept["dense"].dense(), expected)
    assert [kept[n] is changes[n] for n in ("bias", "prompt")] == [True, True]
    torch.testing.assert_close(kept["rows"].dense(), rows.dense())


@pytest.mark.parametrize("rank", [0, -1, 1.5, 0.0, 1.0, True, "4"])
def test_a_rank_that_cannot_be_meant_is_refused(rank: object) -> None:
    with pytest.raises(ConfigError, match="positive integer"):
        recompress(Delta({"w": low(4, 4, 2)}), rank)  # type: ignore[arg-type]
