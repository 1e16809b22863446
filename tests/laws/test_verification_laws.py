"""Laws of a verification: however the work is cut, by starts, rows or members, and merged, the counts are the same."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.score.ensemble import Verification, standard_metrics

STARTS, MEMBERS, H, W = 4, 6, 5, 3
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(STARTS, MEMBERS, 2, H, W, generator=DRAW).mul(2).round()  # with ties
Y = torch.randn(STARTS, 2, H, W, generator=DRAW).mul(2).round()
REFERENCES = {"mean": torch.zeros(2), "edge": torch.ones(2), "climate": torch.linspace(-4, 4, 9).expand(2, H, W, 9)}
REFERENCES["climate"] = REFERENCES["climate"].movedim(-1, 1)


def empty(whole_ensemble: bool = True) -> Verification:
    metrics = standard_metrics(
        climatology="mean", thresholds=["edge"], climate="climate", whole_ensemble=whole_ensemble
    )
    return Verification(metrics, cells=(H, W), channels=["a", "b"], references=REFERENCES)


def whole(whole_ensemble: bool = True) -> Verification:
    found = empty(whole_ensemble)
    for start in range(STARTS):
        found.update(start, 0, X[start], Y[start])
    return found


WHOLE, SUMS = whole(), whole(whole_ensemble=False)


def same(a: Verification, b: Verification) -> None:
    assert a.entries.keys() == b.entries.keys()
    for key, entry in a.entries.items():
        torch.testing.assert_close(entry.weight, b.entries[key].weight)
        for statistic, total in entry.totals.items():
            torch.testing.assert_close(total, b.entries[key].totals[statistic], rtol=1e-11, atol=1e-11)


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, H - 1)), order=st.randoms(use_true_random=False), workers=st.integers(1, 3))
def test_any_rows_of_any_starts_on_any_workers(cuts: set[int], order, workers: int) -> None:
    edges = [0, *sorted(cuts), H]
    work = [(start, rows) for start in range(STARTS) for rows in itertools.pairwise(edges)]
    order.shuffle(work)
    parts = [empty() for _ in range(workers)]
    for i, (start, (a, b)) in enumerate(work):
        parts[i % workers].update(start, 0, X[start, :, :, a:b], Y[start, :, a:b], rows=(a, b))
    found = empty()
    for part in parts:
        found = found.merge(part)
    same(WHOLE, found)


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, MEMBERS - 1)), order=st.permutations(range(MEMBERS)))
def test_any_parts_of_the_members_in_any_order(cuts: set[int], order: list[int]) -> None:
    edges = [0, *sorted(cuts), MEMBERS]
    found = empty(whole_ensemble=False)
    for start in range(STARTS):
        sums = found.gather(start, 0, Y[start])
        for a, b in itertools.pairwise(edges):
            part = found.gather(start, 0, Y[start])
            part.add(X[start, order[a:b]])
            sums = part.merge(sums)
        found.accept(sums)
    same(SUMS, found)


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(MEMBERS)), shift=st.integers(-3, 3))
def test_members_have_no_order_and_the_origin_does_not_count(order: list[int], shift: int) -> None:
    found = Verification(standard_metrics(energy=True), cells=(H, W), channels=["a", "b"])
    moved = Verification(standard_metrics(energy=True), cells=(H, W), channels=["a", "b"])
    found.update(0, 0, X[0], Y[0])
    moved.update(0, 0, X[0, order] + shift, Y[0] + shift)
    same(found, moved)
