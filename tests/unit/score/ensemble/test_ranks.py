"""Rank histogram and outliers: counts, ties, bins of other number than ranks, and flatness for calibrated ensembles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score.ensemble import Outliers, RankHistogram, Verification
from dtheta.score.ensemble.ranks import bin_shares
from tests.unit.score.ensemble.plain import drawn, scored


def test_without_ties_it_counts_members_below() -> None:
    x, y = drawn(4, 300), drawn(300, seed=1)
    ranks = [int((x[:, n] < y[n]).sum()) for n in range(300)]
    expected = [ranks.count(r) / 300 for r in range(5)]
    for ties in ("random", "spread"):
        assert scored(RankHistogram(None, ties), x, y).value.tolist() == pytest.approx(expected)


def test_ties_are_drawn_evenly_or_spread_evenly() -> None:
    x, y = torch.zeros(3, 40_000), torch.zeros(40_000)
    x[2] = 1.0  # ranks 0, 1 and 2 are left open
    assert scored(RankHistogram(None, "spread"), x, y).value.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    random = scored(RankHistogram(None), x, y).value
    assert random.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.01)
    assert torch.equal(random, scored(RankHistogram(None), x, y).value)
    assert not torch.equal(random, scored(RankHistogram(None), x, y, seed=1).value)


def test_random_ties_depend_neither_on_order_nor_on_bands() -> None:
    x, y = torch.randint(3, (6, 2, 8, 5)).float(), torch.randint(3, (2, 8, 5)).float()

    def counted(memory: int, keys: list[tuple[int, int]]) -> torch.Tensor:
        verification = Verification([RankHistogram(None)], cells=(8, 5), channels=["a", "b"], memory=memory)
        for start, lead in keys:
            verification.update(start, lead, x, y)
        return torch.stack([score.value for score in verification.result(resamples=2)])

    keys = [(0, 6), (0, 12), (1, 6), (1, 12)]
    assert torch.equal(counted(1 << 20, keys), counted(1, keys[::-1]))


@settings(max_examples=60, deadline=None)
@given(ranks=st.integers(1, 40), bins=st.integers(1, 40))
def test_every_bin_gets_its_part_of_all_ranks(ranks: int, bins: int) -> None:
    low = torch.arange(ranks)
    shares = bin_shares(low, low + 1, ranks, bins)
    assert shares.sum(-1).tolist() == pytest.approx([1.0] * ranks)
    assert shares.mean(0).tolist() == pytest.approx([1 / bins] * bins)
    if ranks % bins == 0:
        assert set(shares.flatten().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("members", [3, 10])
def test_calibrated_ensembles_are_flat_and_have_the_outliers_that_they_should(members: int) -> None:
    everything = drawn(members + 1, 100_000)
    x, y = everything[1:], everything[0]
    assert scored(RankHistogram(7), x, y).value.tolist() == pytest.approx([1 / 7] * 7, abs=0.005)
    assert float(scored(Outliers(), x, y).value) == pytest.approx(2 / (members + 1), abs=0.005)
    assert float(scored(Outliers(True), x, y).value) == pytest.approx(1, abs=0.03)


def test_outliers_are_counted() -> None:
    x, y = drawn(4, 300), 2 * drawn(300, seed=1)
    outside = ((y < x.amin(0)) | (y > x.amax(0))).double().mean()
    assert float(scored(Outliers(), x, y).value) == pytest.approx(float(outside))
    assert float(scored(Outliers(True), x, y).value) == pytest.approx(float(outside) / 0.4)


def test_where_everything_is_equal_there_are_as_many_outliers_as_expected() -> None:
    assert float(scored(Outliers(True), torch.zeros(4, 10), torch.zeros(10)).value) == pytest.approx(1.0)


def test_refusals() -> None:
    for wrong, message in (({"bins": 0}, "bins is 0"), ({"ties": "first"}, "ties is 'first'")):
        with pytest.raises(ConfigError, match=message):
            scored(RankHistogram(**wrong), torch.zeros(2, 3), torch.zeros(3))
    verification = Verification([RankHistogram(None)], cells=(3,))
    verification.update(0, 6, drawn(2, 3), drawn(3))
    with pytest.raises(ShapeMismatch, match=r"members: 4, 2\); give a number of bins"):
        verification.update(1, 6, drawn(4, 3), drawn(3))
