"""CRPS by sorting against sums over pairs, against its integral, and against the closed form of the normal."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble import CRPS, crps
from tests.unit.score.ensemble import plain
from tests.unit.score.ensemble.plain import drawn, scored

VALUES = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(members=st.lists(VALUES, min_size=2, max_size=9), truth=VALUES, fair=st.booleans())
def test_a_sort_gives_the_sum_over_pairs(members: list[float], truth: float, fair: bool) -> None:
    x = torch.tensor(members, dtype=torch.float64)
    found = crps(x[:, None], torch.tensor([truth], dtype=torch.float64), fair=fair)
    assert float(found) == pytest.approx(plain.crps(x, truth, fair), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("members", [1, 2, 7])
def test_the_biased_score_is_the_integral(members: int) -> None:
    x, y = drawn(members, 5), drawn(5, seed=1)
    found = crps(x, y, fair=False)
    expected = [plain.crps_by_integral(x[:, n], float(y[n])) for n in range(5)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_fair_score_does_not_depend_on_the_size_of_the_ensemble_and_the_biased_one_does() -> None:
    x, y = drawn(4, 200_000), drawn(200_000, seed=1)
    expected = 1 / math.sqrt(math.pi)  # of a normal forecast of a normal truth: E|x - y| - E|x - x'| / 2
    fair = [float(crps(x[:m], y).mean()) for m in (2, 3, 4)]
    assert fair == pytest.approx([expected] * 3, abs=0.005)
    assert float(crps(x[:2], y, fair=False).mean()) == pytest.approx(1.5 * expected, abs=0.005)


def test_the_fair_score_of_pairs_takes_distances_between_pairs_only() -> None:
    x, y = drawn(6, 3), drawn(3, seed=1)
    far = [(i, j) for i in range(6) for j in range(6) if i // 2 != j // 2]
    expected = [
        float((x[:, n] - y[n]).abs().mean()) - sum(abs(float(x[i, n] - x[j, n])) for i, j in far) / len(far) / 2
        for n in range(3)
    ]
    assert float(scored(CRPS(pairs=True), x, y).value) == pytest.approx(sum(expected) / 3)
    assert CRPS(pairs=True).name == "crps_pairs"
    with pytest.raises(ConfigError, match="there are 5"):
        scored(CRPS(pairs=True), x[:5], y)
    with pytest.raises(ConfigError, match="at least 4"):
        scored(CRPS(pairs=True), x[:2], y)
    with pytest.raises(ConfigError, match="of the fair score"):
        CRPS(fair=False, pairs=True)


def test_pairs_of_opposite_sign_flatter_the_fair_score_but_not_that_of_pairs() -> None:
    half, y = drawn(2, 200_000), drawn(200_000, seed=1)
    x = torch.stack((half, -half), 1).flatten(0, 1)
    expected = 1 / math.sqrt(math.pi)
    assert float(scored(CRPS(pairs=True), x, y).value) == pytest.approx(expected, abs=0.005)
    assert float(scored(CRPS(), x, y).value) < expected - 0.05


def test_nothing_cancels_in_float32_far_from_zero() -> None:
    x, y = 1e5 + drawn(50, 40).mul(8).round(), 1e5 + drawn(40, seed=1).mul(8).round()  # exact in float32
    exact, found = crps(x, y), crps(x.float(), y.float())
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(exact.tolist(), rel=1e-6)


def test_any_layout_of_members_and_cells_gives_the_same() -> None:
    x, y = drawn(6, 4, 3, 5, dtype=torch.float32), drawn(4, 3, 5, seed=1, dtype=torch.float32)
    expected = torch.tensor(
        [plain.crps(x[:, i, j, k], float(y[i, j, k]), True) for i in range(4) for j in range(3) for k in range(5)]
    )
    assert crps(x, y).shape == (4, 3, 5)
    torch.testing.assert_close(crps(x, y).flatten(), expected.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(crps(x.permute(0, 3, 1, 2), y.permute(2, 0, 1)), crps(x, y).permute(2, 0, 1))


def test_blocks_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(9, 100, dtype=torch.float32), drawn(100, seed=1, dtype=torch.float32)
    whole = crps(x, y)
    monkeypatch.setattr("dtheta.score.ensemble.blocks._BLOCK", 9 * 7)
    assert torch.equal(crps(x, y), whole)


def test_a_threshold_clamps_members_and_truth() -> None:
    x, y = drawn(7, 50), drawn(50, seed=1)
    edge = torch.full_like(y, 0.5)
    expected = [plain.crps(x[:, n].clamp(min=0.5), max(float(y[n]), 0.5), True) for n in range(50)]
    assert crps(x, y, above=0.5).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert torch.equal(crps(x, y, above=edge), crps(x, y, above=0.5))
    below = [plain.crps(x[:, n].clamp(max=0.5), min(float(y[n]), 0.5), True) for n in range(50)]
    assert crps(x, y, below=0.5).tolist() == pytest.approx(below, rel=1e-10, abs=1e-12)
    torch.testing.assert_close(crps(x, y, above=0.5) + crps(x, y, below=0.5), crps(x, y))  # the line is cut in two
    assert float(crps(x, y, above=-9.0, below=9.0).sub(crps(x, y)).abs().max()) < 1e-12


def test_a_threshold_of_other_precision_is_no_distance() -> None:
    x, y = torch.full((3, 1), 0.0), torch.zeros(1, dtype=torch.float64)
    assert float(crps(x, y, above=0.1)) == 0.0


def test_metrics_average_over_cells_by_weight() -> None:
    x, y = drawn(5, 8), drawn(8, seed=1)
    weights = torch.arange(8.0)
    for fair in (True, False):
        values = torch.tensor([plain.crps(x[:, n], float(y[n]), fair) for n in range(8)], dtype=torch.float64)
        found = scored(CRPS(fair=fair), x, y, weights=weights)
        assert float(found.value) == pytest.approx(float((weights * values).sum() / weights.sum()), rel=1e-12)
    edge = drawn(8, seed=2)
    tail = scored(CRPS(above="p95"), x, y, references={"p95": edge})
    assert float(tail.value) == pytest.approx(float(crps(x, y, above=edge).mean()), rel=1e-12)
    assert tail.metric == "crps_above_p95" and CRPS(fair=False, below=0.5).name == "crps_below_0.5_biased"


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: crps(torch.zeros(3, 4), torch.zeros(5)), ShapeMismatch, r"expected a forecast \(members, 5\)"),
        (lambda: crps(torch.zeros(0, 4), torch.zeros(4)), ShapeMismatch, "expected a forecast"),
        (lambda: crps(torch.zeros(1, 4), torch.zeros(4)), ConfigError, "at least 2 members"),
        (lambda: crps(torch.tensor([[1.0], [math.nan]]), torch.zeros(1)), NonFinite, "1 of 1 cells"),
        (lambda: crps(torch.zeros(2, 1), torch.tensor([math.inf])), NonFinite, "1 of 1 cells"),
        (lambda: scored(CRPS(), torch.zeros(1, 4), torch.zeros(4)), ConfigError, "crps needs at least 2 members"),
    ],
)
def test_refusals(act, error, message) -> None:
    with pytest.raises(error, match=message):
        act()


def test_whole_numbers_and_half_precision_are_taken() -> None:
    x, y = torch.tensor([[1], [3]]), torch.tensor([2])
    assert float(crps(x, y, fair=False)) == 0.5 == float(crps(x.half(), y.half(), fair=False))
