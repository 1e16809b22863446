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


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_that_overlap_are_recompressed_together(axis: int) -> None:
    sizes = [(4, 6), (5, 6)] if axis == 0 else [(6, 4), (6, 5)]
    shape = (12, 6) if axis == 0 else (6, 12)
    first, second = (Block(low(*s, 3), axis, start, shape) for s, start in zip(sizes, (1, 3), strict=True))
    apart = Block(low(*sizes[0], 3, index=7), axis, 8, shape)
    total = Delta({"w": first + second + apart})
    kept = recompress(total, 2)
    near, lost = best((first + second).dense(), 2)
    far, more = best(apart.dense(), 2)
    torch.testing.assert_close(kept["w"].dense(), near + far)
    whole = (first + second).norm() ** 2, apart.norm() ** 2
    expected = (lost * whole[0] + more * whole[1]) / sum(whole)
    assert kept.provenance.settings["discarded"]["w"] == pytest.approx(expected, rel=1e-9)


def test_one_block_stays_a_block_and_costs_what_it_holds() -> None:
    huge = (1 << 44, 6)  # 384 TiB as a matrix of factors
    kept = recompress(Delta({"w": Block(low(5, 6, 3), 0, 4, huge) + Block(low(5, 6, 2, index=1), 0, 4, huge)}), 2)["w"]
    assert isinstance(kept, Block) and (kept.start, kept.stop, kept.shape, kept.rank) == (4, 9, huge, 2)
    expected, _ = best(low(5, 6, 3).dense() + low(5, 6, 2, index=1).dense(), 2)
    torch.testing.assert_close(kept.term.dense(), expected)


@pytest.mark.parametrize("rank", [1, 0.5])
def test_what_is_zero_by_its_form_stays_as_it_is(rank: int | float) -> None:
    rows = Rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5), (1 << 44, 5))
    nothing = LowRank(torch.zeros(1 << 44, 0), torch.zeros(0, 5))
    kept = recompress(
        Delta({"a": nothing, "b": rows, "c": nothing + rows + Block(low(4, 5, 2), 0, 3, rows.shape)}), rank
    )
    assert kept["a"] is nothing and kept["b"] is rows
    assert isinstance(kept["c"], Block) and kept["c"].rank == 1


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
