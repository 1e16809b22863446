"""A product for every slice of a parameter: against plain matrices, in sums, files, recompression and extraction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dtheta as dt
from dtheta.compose.terms import terms
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.kinds import parse
from dtheta.core.lowrank import LowRank
from dtheta.core.products import inner
from dtheta.core.recompress import recompress
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.stack_factors import factored_stack
from dtheta.core.stacked import Stacked, is_stack, stack_of
from dtheta.errors import FormatError, ShapeMismatch, UnsupportedLayer

E, M, N, R = 3, 5, 4, 2


def normal(*shape: int, index: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(0, "stacked", index))


def stack(index: int = 0, core: bool = True, rank: int = R) -> Stacked:
    middle = normal(E, rank, index=index + 50) if core else None
    return Stacked(normal(E, M, rank, index=index), normal(E, rank, N, index=index + 20), middle)


def plain(change: Stacked) -> Tensor:
    """Every slice by itself, float64."""
    core = torch.ones(change.right.shape[:2]) if change.core is None else change.core
    return torch.stack([change.left[e].double() @ core[e].double().diag() @ change.right[e].double() for e in range(E)])


@pytest.mark.parametrize("core", [True, False])
def test_it_is_a_product_for_every_slice(core: bool) -> None:
    change = stack(core=core)
    expected = plain(change)
    torch.testing.assert_close(change.dense(), expected.float())
    assert tuple(change.shape) == (E, M, N) and change.rank is None and change.factors() is None
    assert change.shown_rank == change.slice_rank == R and "rank 2" in repr(change)
    assert change.norm() == pytest.approx(float(expected.norm()), rel=1e-12)
    torch.testing.assert_close(change.rows(torch.tensor([2, 0])), expected[[2, 0]].flatten(1))
    total = torch.ones(E, M * N, dtype=torch.float64)
    change.add_to(total, -0.5)
    torch.testing.assert_close(total, 1 - 0.5 * expected.flatten(1))


def test_windows_are_slices_or_numbers_seen_as_a_matrix() -> None:
    change = stack()
    expected = plain(change).float().flatten(1)
    some, columns = change.window(0, 1, 3), change.window(1, 2, 7)
    assert isinstance(some, Stacked) and isinstance(columns, Dense)
    assert tuple(some.shape) == (2, M * N)
    torch.testing.assert_close(some.matrix(), expected[1:3])
    torch.testing.assert_close(columns.dense(), expected[:, 2:7])


def test_inner_products_with_every_kind() -> None:
    change, d = stack(), normal(E, M, N, index=9)
    low = LowRank(normal(E, 2, index=7), normal(2, M * N, index=8), None, (E, M, N))
    rows = Rows(torch.tensor([1]), normal(1, M * N, index=6), (E, M, N))
    turned = Stacked(normal(E, N, 1, index=3), normal(E, 1, M, index=4), None, (E, M, N))
    for other in (turned, stack(3), stack(4, core=False), Dense(d), low, rows, 2.0 * stack(3) + Dense(d)):
        expected = float(
            (plain(change) * other.map(lambda t: t.double() if t.is_floating_point() else t).dense()).sum()
        )
        assert inner(change, other) == pytest.approx(expected, rel=1e-6)
        assert inner(other, change) == pytest.approx(expected, rel=1e-6)


def test_a_sum_of_stacks_is_a_stack_without_cross_terms() -> None:
    a, b = stack(0), stack(1, core=False)
    total = 0.5 * a + (-2.0) * b
    expected = 0.5 * plain(a) - 2.0 * plain(b)
    joined = stack_of(total)
    assert joined is not None and joined.slice_rank == total.shown_rank == 2 * R
    torch.testing.assert_close(joined.dense(), expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total.dense(), expected.float(), rtol=1e-5, atol=1e-6)
    assert (a + (-1.0) * a).norm() <= 1e-15 * a.norm()
    for other in (
        a + Dense(normal(E, M, N)),
        Dense(normal(E, M, N)),
        LowRank(normal(3, 1), normal(1, 20), None, (E, M, N)),
    ):
        assert stack_of(other) is None
    assert (a + LowRank(normal(3, 1), normal(1, 20), None, (E, M, N))).shown_rank is None


def test_factors_that_do_not_fit_are_refused() -> None:
    for left, right, core in (
        (normal(E, M, R), normal(E, R + 1, N), None),
        (normal(E, M, R), normal(E - 1, R, N), None),
        (normal(M, R), normal(R, N), None),
        (normal(E, M, R), normal(E, R, N), normal(R)),
    ):
        with pytest.raises(ShapeMismatch, match=r"expected \(E, m, r\), \(E, r\), \(E, r, n\)"):
            Stacked(left, right, core)
    with pytest.raises(ShapeMismatch, match=r"parameter \(3, 21\)"):
        Stacked(normal(E, M, R), normal(E, R, N), None, (E, 21))


def test_files_and_forged_descriptions(tmp_path: Path) -> None:
    delta = Delta({"experts.up": stack(), "experts.down": 0.25 * stack(1, core=False)})
    path = delta.save(tmp_path / "a.delta")
    again = dt.load(path)
    assert again == delta and again.digest == delta.digest and path.stat().st_size < 8000
    assert all(torch.equal(again[name].dense(), delta[name].dense()) for name in delta)
    for forged in ({"rows": 3}, {"rows": 0}, {"rows": 40}, {"rank": -1}, {"core": 1}):
        with pytest.raises(FormatError):
            parse({**stack().meta(), **forged})


@pytest.mark.parametrize("rank", [1, 3])
def test_recompression_is_that_of_every_slice(rank: int) -> None:
    delta = Delta({"experts.up": stack(0) + stack(1), "experts.dense": Dense(normal(E, M, N))})
    found = recompress(delta, rank)
    for name in delta:
        got = found[name]
        assert isinstance(got, Stacked) and got.slice_rank == rank
        values = delta[name].dense().double()
        for e in range(E):
            U, S, Vh = torch.linalg.svd(values[e], full_matrices=False)
            best = (U[:, :rank] * S[:rank]) @ Vh[:rank]
            torch.testing.assert_close(got.dense()[e].double(), best, rtol=1e-4, atol=1e-5)
        lost = float((values - got.dense()).square().sum() / values.square().sum())
        assert found.provenance.settings["discarded"][name] == pytest.approx(lost, abs=1e-6)


def test_a_share_of_the_energy_is_kept_by_all_slices_together() -> None:
    values = normal(E, M, N)
    values[1] *= 100  # it alone has nearly all of the energy
    kept, lost = factored_stack(values, 0.9)
    squares = torch.linalg.svdvals(values.double()).square().sum(0)
    shares = squares.cumsum(0) / squares.sum()
    assert shares[kept.slice_rank - 1] >= 0.9 and (kept.slice_rank == 1 or shares[kept.slice_rank - 2] < 0.9)
    assert lost == pytest.approx(float(squares[kept.slice_rank :].sum()), rel=1e-5)


def test_extraction_gives_every_expert_the_rank() -> None:
    base = {"mlp.experts.up": normal(E, 8, 8), "conv.weight": normal(8, 4, 4, index=1)}
    moved = Stacked(normal(E, 8, 2, index=2), normal(E, 2, 8, index=3))
    step = LowRank(normal(8, 2, index=4), normal(2, 16, index=5), None, (8, 4, 4))
    tuned = {
        "mlp.experts.up": base["mlp.experts.up"] + moved.dense(),
        "conv.weight": base["conv.weight"] + step.dense(),
    }
    for rank in (2, 0.9999):
        delta = dt.extract(base, tuned, rank=rank)
        assert isinstance(delta["mlp.experts.up"], Stacked) and isinstance(delta["conv.weight"], LowRank)
        torch.testing.assert_close(
            delta["mlp.experts.up"].dense(), moved.dense(), rtol=0, atol=0.1 if rank < 1 else 1e-4
        )
        assert set(delta.provenance.settings["discarded"]) == set(base)
    assert isinstance(dt.extract(base, tuned, rank=7)["mlp.experts.up"], Dense)  # factors would not be smaller


def test_what_takes_entries_takes_them_and_factors_are_not_compressed() -> None:
    delta = Delta({"experts.up": stack()})
    packed = dt.compress(delta, 0.5, of="product")
    assert (packed - delta).norm() < delta.norm()
    for of in ("factors", "balanced"):
        with pytest.raises(UnsupportedLayer, match=r"experts.up: .*keep='NAME'"):
            dt.compress(Delta({"experts.up": 2.0 * stack()}), 0.5, of=of)  # type: ignore[arg-type]
    two = Delta({"experts.up": stack(), "query.weight": Dense(normal(4, 4))})
    assert dt.compress(two, 0.5, keep="experts.*", of="factors")["experts.up"] is two["experts.up"]
    assert (dt.ties([delta, delta], density=1.0) - delta).norm() < 1e-6 * delta.norm()
    both = dt.compose([delta, Delta({"experts.up": stack(1)})], [0.5, 2.0])
    torch.testing.assert_close(both["experts.up"].dense(), (0.5 * stack() + 2.0 * stack(1)).dense())
    assert [term.leaf.kind for term in terms(both["experts.up"])] == ["stacked", "stacked"]


def test_names_tell_stacks_from_convolutions() -> None:
    assert is_stack("layers.0.experts.gate_up_proj", (4, 8, 6)) and is_stack("pos_embed", (1, 4, 4))
    assert not is_stack("conv.weight", (4, 8, 3)) and not is_stack("experts.up", (4, 8))
    for split in ("conv.weight_v", "conv.weight_orig", "conv.parametrizations.weight.original1"):
        assert not is_stack(split, (4, 8, 3))  # of a convolution with weight norm
    assert is_stack("experts.weights", (4, 8, 6)) and is_stack("experts.up_weight", (4, 8, 6))


def test_slices_without_columns_are_not_gone_through() -> None:
    none = Stacked(torch.zeros(1 << 40, M, 0), torch.zeros(1 << 40, 0, N))  # as a file of a few bytes may say
    assert none.norm() == 0.0 and inner(none, none) == 0.0


def test_recompression_keeps_the_shape_and_what_has_no_rank() -> None:
    flat = Stacked(normal(E, M, R), normal(E, R, N), None, (E, M * N))
    assert tuple(recompress(Delta({"head.weight": flat}), 1)["head.weight"].shape) == (E, M * N)
    for shape in ((0, M, N), (E, 0, N), (1, 1, N)):
        kept = Dense(torch.ones(shape))
        assert recompress(Delta({"embed.cls_token": kept}), 1)["embed.cls_token"] is kept
