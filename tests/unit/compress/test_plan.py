"""Every kind of change: what of it is compressed, and what is refused."""

from __future__ import annotations

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.pissa import PiSSA
from dtheta.compress.compeft import compress
from dtheta.compress.plan import balanced
from dtheta.compress.report import compression_report
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New
from dtheta.core.combination import Scaled, Sum
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.recompress import recompress
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.ternary import Ternary
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.errors import ConfigError, UnsupportedLayer
from tests.unit.compress.reference import draw, mean_abs, top_signs


def one(change: Change, density: float = 0.3, **options) -> Change:
    """The compressed form of a delta of one change."""
    return compress(Delta({"w": change}), density, **options)["w"]


def low(m: int = 12, n: int = 9, r: int = 3, core: torch.Tensor | None = None, index: int = 0) -> LowRank:
    return LowRank(draw(m, r, index=index), draw(r, n, index=index), core)


def test_factors_are_compressed_as_one_vector_left_before_right() -> None:
    change = low()
    packed = one(change)
    values = {"0": change.left, "1": change.right}
    signs = top_signs(values, 0.3)
    scale = mean_abs(values, signs)
    assert isinstance(packed, TernaryFactors) and packed.rank == 3
    torch.testing.assert_close(packed.left.dense().double(), scale * signs["0"], rtol=2e-7, atol=0)
    torch.testing.assert_close(packed.right.dense().double(), scale * signs["1"], rtol=2e-7, atol=0)


def test_the_scaling_of_lora_and_a_multiple_stay_exact_and_move_no_sign() -> None:
    plain, scaled = one(low()), one(0.5 * low(core=torch.full((3,), 2.0)))
    torch.testing.assert_close(scaled.dense(), plain.dense())
    assert one(low(core=torch.full((3,), 2.0))).factors() is not None
    torch.testing.assert_close(one(low(core=torch.full((3,), 2.0))).dense(), 2 * plain.dense())


@pytest.mark.parametrize(
    "change",
    [low(core=torch.tensor([1.0, 1.0, -1.0])), low(core=torch.tensor([3.0, 2.0, 1.0])), low() + low(index=1)],
    ids=["difference", "diagonal", "sum"],
)
def test_factors_that_mean_nothing_one_by_one_are_refused(change: Change) -> None:
    with pytest.raises(UnsupportedLayer, match=r"w: .*balanced.*recompress.*product"):
        one(change)
    assert isinstance(one(change, of="balanced"), TernaryFactors)
    assert isinstance(one(change, of="product"), Ternary)


def test_a_trained_pissa_delta_survives_in_balanced_factors_only(tiny_mlp: torch.nn.Module) -> None:
    adapter = attach(tiny_mlp, PiSSA(rank=4), select="*.weight")
    with torch.no_grad():
        for i, parameter in enumerate(adapter.trainable().values()):
            parameter.add_(1e-3 * draw(*parameter.shape, index=i))
    delta = adapter.delta()
    adapter.detach()
    with pytest.raises(UnsupportedLayer):
        compress(delta, 0.5)
    assert compression_report(delta, compress(delta, 0.5, of="balanced")).relative_error < 0.8
    assert compression_report(delta, compress(recompress(delta, 4), 0.5, of="balanced")).cosine > 0.6


def test_balanced_factors_are_exact_and_of_the_true_rank() -> None:
    change = low() + low(index=1) - low()
    left, right = balanced(change)
    assert left.shape[1] == 3
    torch.testing.assert_close(left @ right, low(index=1).dense(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(left.mT @ left, right @ right.mT, rtol=1e-4, atol=1e-4)


def test_balanced_factors_do_not_depend_on_how_the_product_is_split() -> None:
    change = low()
    lopsided = LowRank(1e-3 * change.left, 1e3 * change.right)
    torch.testing.assert_close(one(lopsided, of="balanced").dense(), one(change, of="balanced").dense())


def test_factors_of_very_different_size_are_refused_rather_than_made_zero() -> None:
    lopsided = LowRank(1e-3 * draw(12, 3), draw(3, 9))
    with pytest.raises(UnsupportedLayer, match=r"w \(vector 0\).*balanced"):
        one(lopsided)
    assert one(lopsided, per="tensor").norm() > 0


@pytest.mark.parametrize("m", [5, 3000])
@pytest.mark.parametrize("per", ["delta", "tensor", "row"])
def test_the_product_slab_by_slab_is_the_dense_product(m: int, per: str) -> None:
    change = LowRank(draw(m, 2), draw(2, 171), torch.tensor([1.0, -0.5]))
    streamed, whole = one(change, of="product", per=per), one(Dense(change.dense()), per=per)
    assert isinstance(streamed, Ternary)
    assert torch.equal(streamed.positive, whole.positive) and torch.equal(streamed.negative, whole.negative)
    torch.testing.assert_close(streamed.scale, whole.scale, rtol=1e-6, atol=0)


def test_alpha_sigma_of_a_streamed_product_is_that_of_the_dense_one() -> None:
    change = LowRank(draw(3000, 2), draw(2, 171))
    streamed = one(change, of="product", scale="alpha-sigma")
    assert float(streamed.scale) == pytest.approx(float(change.dense().double().std()), rel=1e-6)  # type: ignore[attr-defined]


def test_picked_rows_become_a_block_and_only_they_count() -> None:
    rows = Rows(torch.tensor([3, 5]), draw(2, 10), (100, 10))
    for per in ("delta", "row"):
        packed = one(rows, 0.5, per=per)
        assert isinstance(packed, Block) and (packed.start, packed.stop) == (3, 6)
        values = one(Dense(rows.values), 0.5, per=per).dense()
        expected = torch.zeros(100, 10).index_copy(0, rows.index, values)
        torch.testing.assert_close(packed.dense(), expected)
    assert one(2.0 * rows, 0.5).dense()[3].abs().max() > one(rows, 0.5).dense()[3].abs().max()


def test_a_sum_of_rows_counts_the_rows_of_both() -> None:
    both = Rows(torch.tensor([3]), draw(1, 10), (100, 10)) + Rows(torch.tensor([7]), draw(1, 10, index=1), (100, 10))
    assert isinstance(both, Sum)
    packed = one(both, 0.5)
    assert int(packed.dense().count_nonzero()) == 10 and set(packed.dense().nonzero()[:, 0].tolist()) <= {3, 7}


def test_no_rows_stay_no_rows() -> None:
    delta = Delta({"w": Rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), (9, 4)), "v": Dense(draw(3))})
    assert compress(delta, 1.0)["w"].norm() == 0.0


def test_blocks_are_compressed_in_place() -> None:
    blocks = [Block(low(4, 6, 2, index=i), 0, 4 * i, (12, 6)) for i in range(2)]
    packed = one(blocks[0] + 0.5 * blocks[1], 0.5)
    assert isinstance(packed, Sum) and all(isinstance(term, Block) for term in packed.terms)
    left, right = low(4, 6, 2), low(4, 6, 2, index=1)
    apart = compress(Delta({"a": left, "b": right}), 0.5)
    expected = torch.cat([apart["a"].dense(), 0.5 * apart["b"].dense(), torch.zeros(4, 6)])
    torch.testing.assert_close(packed.dense(), expected)


def test_blocks_that_overlap_are_one_matrix() -> None:
    blocks = Block(Dense(draw(4, 6)), 0, 0, (8, 6)) + Block(Dense(draw(4, 6, index=1)), 0, 2, (8, 6))
    assert isinstance(one(blocks), Ternary)


def test_a_multiple_of_a_dense_change_is_a_dense_change() -> None:
    change = Scaled(-2.0, Dense(draw(5, 4)))
    assert torch.equal(one(change).dense(), one(Dense(change.dense())).dense())


def test_a_sum_with_a_dense_term_is_compressed_by_its_entries() -> None:
    change = Dense(draw(12, 9)) + low()
    packed = one(change)
    assert isinstance(packed, Ternary) and torch.equal(packed.dense(), one(Dense(change.dense())).dense())


def spectral(k: int = 5) -> Spectral:
    U, _, Vh = torch.linalg.svd(draw(8, 6), full_matrices=False)
    return Spectral(draw(k), (8, 6), U[:, :k], Vh[:k])


def test_shifts_are_compressed_as_a_vector_on_the_same_basis() -> None:
    change = spectral()
    packed = one(change, 0.4)
    assert isinstance(packed, Spectral) and packed.left is change.left
    assert torch.equal(packed.shift, one(Dense(change.shift), 0.4).dense())
    doubled = one(2.0 * change, 0.4)
    torch.testing.assert_close(doubled.dense(), 2 * packed.dense())
    assert isinstance(one(change, of="product"), Ternary)


def test_shifts_without_their_basis_are_refused() -> None:
    unbound = Spectral(draw(3), (8, 6), probe=draw(8))
    for of in ("factors", "product"):
        with pytest.raises(ConfigError, match=r"w: .*bind"):
            one(unbound, of=of)


def test_new_vectors_are_compressed_only_if_asked_for() -> None:
    delta = Delta({"prompt": New(draw(6, 4)), "w": Dense(draw(3, 3))})
    with pytest.raises(UnsupportedLayer, match=r"prompt: .*keep.*new=True"):
        compress(delta, 0.2)
    assert compress(delta, 0.2, keep="prompt")["prompt"] is delta["prompt"]
    packed = compress(delta, 0.2, new=True)["prompt"]
    assert isinstance(packed, New) and packed.values.abs().unique().numel() == 2


def test_compressed_factors_can_be_compressed_again_in_every_way() -> None:
    packed = one(low())
    assert isinstance(one(packed), TernaryFactors) and isinstance(one(-1.0 * packed), Scaled)
    assert isinstance(one(packed, of="balanced"), TernaryFactors)
    assert isinstance(one(packed, of="product"), Ternary)
