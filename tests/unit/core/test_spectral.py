"""Spectral changes: bound to a base by its singular vectors, refused where those do not reproduce the probe."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.basis import spectral_basis
from dtheta.core.change import Dense
from dtheta.core.combination import Scaled, Sum
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "spectral", index))


@pytest.fixture
def weight() -> torch.Tensor:
    return normal(6, 4)


def test_shifting_the_singular_values_of_the_base(weight: torch.Tensor) -> None:
    shift = torch.tensor([0.5, -0.25, 0.125])
    moved = weight + Spectral(shift, (6, 4)).bind(weight).dense()
    before, after = torch.linalg.svdvals(weight), torch.linalg.svdvals(moved)
    expected = torch.cat([before[:3] + shift, before[3:]]).sort(descending=True).values
    assert torch.allclose(after, expected, atol=1e-5)


def test_basis_is_orthonormal_exact_and_of_the_precision_of_the_weight(weight: torch.Tensor) -> None:
    for dtype, expected in [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]:
        left, right = spectral_basis(weight.to(dtype), 4)
        assert left.dtype == right.dtype == expected
        tolerance = 1e-6 if expected == torch.float32 else 1e-12
        assert torch.allclose(left.T @ left, torch.eye(4, dtype=expected), atol=tolerance)
        S = torch.linalg.svdvals(weight.to(dtype).to(expected))
        assert torch.allclose((left * S) @ right, weight.to(dtype).to(expected), atol=10 * tolerance)


def test_probe_is_made_from_fixed_signs() -> None:
    """The signs come from a hash, so these numbers hold for every version of torch and numpy."""
    change = Spectral(torch.tensor([1.0]), (1, 9), torch.ones(1, 1), torch.eye(9)[:1])
    rows = [torch.eye(9)[i : i + 1] for i in range(9)]
    signs = [float(Spectral(torch.ones(1), (1, 9), torch.ones(1, 1), row).make_probe()) for row in rows]
    assert set(signs) == {1.0, -1.0}
    assert float(change.make_probe()) == signs[0]
    assert signs == [1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0]


def test_a_rotated_basis_is_refused() -> None:
    """With equal singular values the basis is free: a delta made on one of its rotations must not be bound silently."""
    base = torch.eye(4)
    turn = torch.linalg.qr(normal(4, 4)).Q
    made = Spectral(torch.tensor([1.0, 0.5, 0.0, -1.0]), (4, 4), turn, turn.T)
    stored = Spectral(made.shift, (4, 4), probe=made.make_probe())
    with pytest.raises(BaseMismatch, match="include_basis=True"):
        stored.bind(base)
    same = Spectral(torch.ones(4), (4, 4), turn, turn.T)  # equal shifts: every rotation is the same change
    found = Spectral(same.shift, (4, 4), probe=same.make_probe()).bind(base)
    assert torch.allclose(found.dense(), same.dense(), atol=1e-6)


def test_probe_lets_float32_differences_of_libraries_pass(weight: torch.Tensor) -> None:
    made = Spectral(normal(4), (6, 4)).bind(weight)
    assert made.left is not None and made.right is not None
    noisy = Spectral(made.shift, (6, 4), made.left * (1 + 3e-7), made.right * (1 - 3e-7))
    assert Spectral(made.shift, (6, 4), probe=noisy.make_probe()).bind(weight).bound


def test_zero_shifts_bind_to_anything(weight: torch.Tensor) -> None:
    zero = Spectral(torch.zeros(4), (6, 4)).bind(weight)
    assert Spectral(zero.shift, (6, 4), probe=zero.make_probe()).bind(weight).norm() == 0


def test_sums_and_multiples_on_one_basis_are_shifts(weight: torch.Tensor) -> None:
    a, b = Spectral(normal(4), (6, 4)).bind(weight), Spectral(normal(4, index=1), (6, 4)).bind(weight)
    both = 2 * a - b
    assert isinstance(both, Spectral) and both.bound
    assert torch.allclose(both.dense(), 2 * a.dense() - b.dense(), atol=1e-5)
    loose = 2 * Spectral(a.shift, (6, 4), probe=a.make_probe()) - Spectral(b.shift, (6, 4), probe=b.make_probe())
    assert isinstance(loose, Spectral) and loose.norm() == pytest.approx(both.norm())
    assert torch.allclose(loose.bind(weight).dense(), both.dense(), atol=1e-5)
    other = Spectral(normal(4), (6, 4), torch.linalg.qr(normal(6, 4)).Q, torch.eye(4))
    assert isinstance(a + other, Sum) and isinstance(a + Spectral(normal(2), (6, 4)).bind(weight), Sum)
    assert isinstance(a + Dense(normal(6, 4)), Sum)


def test_one_probe_missing_leaves_none() -> None:
    a, b = Spectral(normal(2), (3, 3), probe=normal(3)), Spectral(normal(2), (3, 3))
    joined = a + b
    assert isinstance(joined, Spectral) and joined.probe is None and "probe" not in joined.stored()


def stored(change: Spectral) -> Spectral:
    """The change as a file without its base gives it."""
    return Spectral(change.shift, change.full_shape, probe=change.make_probe())


def turned(base: torch.Tensor) -> torch.Tensor:
    """A basis of the same singular values as the identity, and another one."""
    return torch.linalg.qr(normal(*base.shape)).Q


@pytest.mark.parametrize("size", [1e-2, 1e-4])
@pytest.mark.parametrize("narrow", [True, False])
def test_a_difference_of_nearly_equal_changes_binds_and_is_still_checked(size: float, narrow: bool) -> None:
    """Two checkpoints of one run: the rounding of the stored probes is large beside their difference."""
    base = torch.eye(16)
    shift = normal(16).double()
    near = shift + size * normal(16, index=1).double()
    for turn, fits in ((torch.eye(16), True), (turned(base), False)):
        a, b = (Spectral(s.float() if narrow else s, (16, 16), turn, turn.T) for s in (shift, near))
        for step in (stored(b) - stored(a), 0.5 * (2 * stored(b) - 3 * stored(a) + stored(a))):
            assert isinstance(step, Spectral) and step.parts is not None and step.parts >= a.norm()
            if fits:
                assert torch.allclose(step.bind(base).dense(), b.dense() - a.dense(), atol=1e-6)
            else:
                with pytest.raises(BaseMismatch, match="include_basis=True"):
                    step.bind(base)


def test_what_cancels_to_the_rounding_of_float64_binds_and_what_cannot_be_checked_says_so() -> None:
    base = torch.eye(16)
    a = stored(Spectral(normal(16), (16, 16), base, base))
    for nothing in (0.1 * a + 0.2 * a - 0.3 * a, a * (1 / 3) * 3 - a, a - a):
        assert isinstance(nothing, Spectral) and nothing.bind(base).norm() < 1e-15 * a.norm()
    other = turned(base)
    made = Spectral(a.shift, (16, 16), other, other.T)
    near = Spectral(a.shift * (1 + 3e-7), (16, 16), other, other.T)
    with pytest.raises(BaseMismatch, match="bind the parts before they are added"):
        (stored(near) - stored(made)).bind(base)


def test_sums_on_a_basis_at_hand_are_probed_anew(weight: torch.Tensor) -> None:
    a, b = (stored(Spectral(normal(4, index=i), (6, 4)).bind(weight)).bind(weight) for i in range(2))
    both = 2 * a - b
    assert isinstance(both, Spectral) and both.probe is None and both.parts is None
    assert torch.equal(both.stored()["probe"], both.make_probe())


def test_the_basis_does_not_depend_on_how_many_vectors_are_asked_for() -> None:
    """Where singular values are equal, another route would turn the vectors."""
    for base in (torch.eye(16), torch.ones(12, 20), torch.cat([torch.eye(20), torch.eye(20)], 1).T, normal(30, 24)):
        whole = spectral_basis(base, min(base.shape))
        for dtype in (torch.float32, torch.float64):
            for k in (1, 3, 8, min(base.shape)):
                left, right = spectral_basis(base.to(dtype), k)
                assert torch.equal(left.float(), whole[0][:, :k]) and torch.equal(right.float(), whole[1][:k])
                if k < min(base.shape):
                    assert left.is_contiguous() and left.untyped_storage().nbytes() == left.numel() * dtype.itemsize


def test_unbound_changes_say_how_to_bind() -> None:
    change = Spectral(normal(3), (6, 4))
    for use in (change.dense, change.factors, lambda: change.window(0, 0, 2), change.make_probe):
        with pytest.raises(ConfigError, match=r"dt\.load\(path, base=model\)"):
            use()
    assert change.rank == 3 and change.norm() == pytest.approx(float(change.shift.norm()))
    assert str(Scaled(0.5, change)) and str(Sum((change, change)))


def test_windows_are_low_rank(weight: torch.Tensor) -> None:
    change = Spectral(normal(4), (6, 4)).bind(weight)
    cut = change.window(0, 1, 3)
    assert isinstance(cut, LowRank) and torch.allclose(cut.dense(), change.dense()[1:3], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spectral(normal(5), (6, 4)),
        lambda: Spectral(normal(0), (6, 4)),
        lambda: Spectral(normal(2, 2), (6, 4)),
        lambda: Spectral(normal(2), (6, 4), normal(6, 2)),
        lambda: Spectral(normal(2), (6, 4), normal(6, 2), normal(4, 2)),
        lambda: Spectral(normal(2), (6, 4), probe=normal(4)),
    ],
)
def test_what_does_not_fit_is_refused(make: object) -> None:
    with pytest.raises(ShapeMismatch):
        make()  # type: ignore[operator]
