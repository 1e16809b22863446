"""The rules for the scale: each against a search over numbers."""

from __future__ import annotations

import pytest
import torch

from dtheta.compress.compeft import compress
from dtheta.core.change import Dense
from dtheta.core.combination import scale as times
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.ternary import Ternary
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.errors import NonFinite
from tests.unit.compress.reference import dense_delta, draw


def correlated(m: int = 20, n: int = 15, r: int = 4) -> LowRank:
    """Factors whose columns are alike, so that the best scale of the product is not that of the factors."""
    return LowRank(draw(m, r) + 2 * draw(m, 1), draw(r, n) + draw(1, n) * torch.tensor([[1.0], [1.0], [-1.0], [1.0]]))


def scaled_factors(change: TernaryFactors, u: float, v: float = 1.0) -> TernaryFactors:
    """The same signs with scales multiplied by u and v."""
    left, right = (
        Ternary(f.positive, f.negative, f.scale.double() * x, f.full_shape)
        for f, x in ((change.left, u), (change.right, v))
    )
    return TernaryFactors(left, right, change.full_shape)


@pytest.mark.parametrize("per", ["delta", "tensor", "row"])
def test_for_entries_least_squares_is_the_mean_magnitude(per: str) -> None:
    delta = dense_delta(a=(11, 8), b=(17,))
    assert compress(delta, 0.3, "least-squares", per=per) == compress(delta, 0.3, "mean-abs", per=per)


def test_no_other_scale_of_the_whole_delta_is_nearer() -> None:
    delta = dense_delta(a=(11, 8), b=(17,))
    packed = compress(delta, 0.3, "least-squares")
    best = (delta - packed).norm()
    assert all((delta - u * packed).norm() > best for u in (0.9, 0.999, 1.001, 1.1))


@pytest.mark.parametrize("per", ["delta", "tensor"])
def test_no_other_scale_of_factors_brings_the_product_nearer(per: str) -> None:
    delta = Delta({"w": correlated()})
    packed = compress(delta, 0.4, "least-squares", per=per)["w"]
    assert isinstance(packed, TernaryFactors)
    best = (delta["w"] - packed).norm()
    for u in (0.9, 0.99, 1.01, 1.1):
        assert (delta["w"] - scaled_factors(packed, u, u)).norm() > best
    assert best < (delta["w"] - compress(delta, 0.4, "mean-abs", per=per)["w"]).norm()


def test_one_scale_for_entries_and_factors_together_is_the_best_of_all() -> None:
    delta = Delta({"d": Dense(0.7 * draw(9, 9)), "w": 0.5 * correlated()})
    packed = compress(delta, 0.4, "least-squares")

    def error(u: float) -> float:
        dense = packed["d"].dense() * u
        product = times(scaled_factors(packed["w"].term, u, u), 0.5)  # type: ignore[attr-defined]
        return ((delta["d"].dense() - dense).norm() ** 2 + (delta["w"] - product).norm() ** 2).item()

    best = error(1.0)
    assert all(error(float(u)) >= best * (1 - 1e-9) for u in torch.linspace(0.0, 3.0, 301))
    assert min(error(0.99), error(1.01)) > best


def test_each_row_of_the_left_factor_is_fitted() -> None:
    delta = Delta({"w": correlated()})
    packed = compress(delta, 0.4, "least-squares", per="row")["w"]
    assert isinstance(packed, TernaryFactors) and packed.left.by_row and packed.right.by_row
    target, found = delta["w"].dense().double(), packed.dense().double()
    for i in range(target.shape[0]):
        best = (target[i] - found[i]).norm()
        assert all((target[i] - u * found[i]).norm() >= best for u in (0.99, 1.01))


def test_signs_that_point_away_from_the_product_get_a_negative_scale() -> None:
    delta = Delta({"w": LowRank(torch.ones(1, 3), torch.tensor([[1.0], [1.0], [-3.0]]))})  # -1, and of the signs +1
    packed = compress(delta, 1.0, "least-squares", per="tensor")
    torch.testing.assert_close(packed["w"].dense(), torch.tensor([[-1.0]]))
    assert compress(delta, 1.0, "least-squares")["w"].norm() == 0.0  # one positive scale for both: nothing is nearest


def test_alpha_multiplies_every_rule() -> None:
    delta = dense_delta(a=(11, 8))
    for rule in ("mean-abs", "alpha-sigma", "least-squares"):
        one, three = (compress(delta, 0.3, rule, alpha=alpha)["a"].dense() for alpha in (1.0, 3.0))
        torch.testing.assert_close(three, 3 * one)


def test_row_deviations_are_those_of_each_row() -> None:
    delta = dense_delta(a=(6, 40))
    packed = compress(delta, 0.2, "alpha-sigma", per="row")["a"]
    torch.testing.assert_close(packed.scale, delta["a"].dense().std(1))  # type: ignore[attr-defined]


def test_a_large_mean_does_not_spoil_the_deviation() -> None:
    values = 1e6 + draw(3, 200_000, dtype=torch.float64)
    packed = compress(Delta({"a": Dense(values)}), 0.1, "alpha-sigma")["a"]
    assert float(packed.scale) == pytest.approx(float(values.std()), rel=1e-6)  # type: ignore[attr-defined]


def test_squares_that_are_too_large_are_refused() -> None:
    huge = Delta({"w": Dense(torch.full((4,), 1e200, dtype=torch.float64))})
    with pytest.raises(NonFinite, match="least-squares"):
        compress(huge, 0.5, "least-squares")


@pytest.mark.parametrize("rule", ["mean-abs", "alpha-sigma", "least-squares"])
@pytest.mark.parametrize("per", ["delta", "tensor", "row"])
def test_a_delta_of_no_rows_has_no_scale(rule, per) -> None:
    delta = Delta({"w": Rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 6), (4, 6))})
    assert compress(delta, 0.1, rule, per=per) == delta
