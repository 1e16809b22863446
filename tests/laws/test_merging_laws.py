"""Laws of merging: exactly the formulas, alone as among others, whatever the slab, and again from what JSON keeps."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.compose.breadcrumbs import breadcrumbs
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.compose import compose
from dtheta.compose.dare import dare
from dtheta.compose.slerp import slerp
from dtheta.compose.soups import greedy_soup, uniform_soup
from dtheta.compose.ties import ties
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.rows import Rows
from dtheta.core.ternary import Ternary
from tests.laws.strategies import FACTORS, deltas, make_model, signed
from tests.unit.compose.merges import arguments, dense_of, drawn, elected, equal, merged, windowed

RULES = st.fixed_dictionaries(
    {
        "elect": st.sampled_from(["total", "count"]),
        "divide": st.sampled_from(["count", "weights", None]),
    }
)
SHARES = st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0])


@st.composite
def several(draw: st.DrawFn, most: int = 3) -> list[Delta]:
    """Deltas of one model, of all kinds; now and then one twice."""
    model = make_model(draw(st.sampled_from(["linear", "embedding", "double"])))
    found = [draw(deltas(model)) for _ in range(draw(st.integers(1, most)))]
    return [*found, found[0]] if draw(st.booleans()) else found


@st.composite
def weighted(draw: st.DrawFn) -> tuple[list[Delta], list[float]]:
    found = draw(several())
    weights = draw(st.lists(FACTORS, min_size=len(found), max_size=len(found)))
    return found, [weights[0]] * len(found) if draw(st.booleans()) else weights


@given(weighted(), SHARES, st.sampled_from(["delta", "tensor"]), RULES, FACTORS)
def test_ties_is_the_formula(given_: Any, density: float, per: str, rules: dict[str, Any], factor: float) -> None:
    found, weights = given_
    kept = [windowed(one, density, 0.0, per) for one in found]
    rules = {**rules, "factor": factor}
    expected = merged(found, kept, lambda m, x: elected(x, [weights[i] for i in m], **rules))
    result = ties(found, density, weights, per=per, **rules)  # type: ignore[arg-type]
    assert equal(result, expected)


@given(st.data(), SHARES, RULES)
def test_planes_give_what_dense_vectors_give(data: st.DataObject, density: float, rules: dict[str, Any]) -> None:
    count, shape = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([(3, 5), (8, 8), (7,), ()]))
    changes = [data.draw(signed(shape)) for _ in range(count)]
    weights = data.draw(st.lists(FACTORS, min_size=count, max_size=count))
    if data.draw(st.booleans()):
        changes = [Ternary(c.positive, c.negative, changes[0].scale, shape) for c in changes]
        weights = weights[:1] * count
    found = [Delta({"w": change}) for change in changes]
    result = ties(found, density, weights, **rules)
    assert torch.equal(result["w"].dense(), ties(list(map(dense_of, found)), density, weights, **rules)["w"].dense())


@given(weighted(), SHARES, st.sampled_from([0.0, 0.05, 0.4]), st.sampled_from(["delta", "tensor"]))
def test_breadcrumbs_keep_the_ranks_they_say(given_: Any, density: float, gamma: float, per: str) -> None:
    found, _ = given_
    density = min(density, 1 - gamma)
    for one in found:
        expected = windowed(one, density, gamma, per)
        result = breadcrumbs(one, density, gamma=gamma, per=per)  # type: ignore[arg-type]
        assert all(torch.equal(result[n].dense().double(), expected[n]) for n in expected)


@given(several(), st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 1.0]), st.data())
def test_a_delta_loses_the_same_entries_alone_and_among_others(
    found: list[Delta], seed: int, keep: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(found))))
    chosen = data.draw(st.sampled_from(range(len(found))))
    alone, expected = dare(found[chosen], keep, seed=seed), drawn(found[chosen], keep, seed)
    among = dare([found[i] for i in order], keep, seed=seed, weights=[float(i == chosen) for i in order])
    for name in alone:
        # a float64 delta among them makes the sum float64
        assert torch.equal(alone[name].dense(), among[name].dense().to(alone[name].dtype))
        wanted = (1 / keep) * expected[name]
        assert torch.equal(alone[name].dense(), wanted.to(alone[name].dtype))


def without_products(one: Delta) -> Delta:
    """The same delta, its products of factors dense: BLAS rounds a product of one row otherwise than of many."""
    plain = (Dense, Rows, Ternary)
    return one.map(lambda _, c: c if all(isinstance(leaf, plain) for leaf in c.leaves()) else Dense(c.dense()))


@settings(max_examples=15)
@given(weighted(), st.integers(1, 40), st.integers(1, 20))
def test_slabs_do_not_show(given_: Any, slab: int, length: int) -> None:
    found, weights = list(map(without_products, given_[0])), given_[1]

    def all_of_them() -> list[Delta]:
        return [
            ties(found, 0.4, weights),
            breadcrumbs(found, 0.4, gamma=0.2, weights=weights, per="delta"),
            dare(found, 0.4, seed=3, weights=weights, rescale="l1"),
        ]

    whole = all_of_them()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dtheta.core.change._SLAB", slab)
        patch.setattr("dtheta.compose.entrywise._RANGE", length)
        assert all_of_them() == whole
        patch.setenv("DTHETA_NUMBA", "0")
        assert all_of_them() == whole


@settings(max_examples=15)
@given(weighted(), SHARES, RULES, st.integers(0, 99))
def test_a_merge_runs_again_from_json(given_: Any, share: float, rules: dict[str, Any], seed: int) -> None:
    found, weights = given_
    made = [
        ties(found, share, weights, **rules, factor=1 / 3),
        breadcrumbs(found, share / 2, gamma=share / 3, weights=weights, then="ties", **rules),
        dare(found, share, seed=seed, weights=weights, rescale="l1", then="ties", **rules),
        dare(found, share, seed=seed, weights=weights),
    ]
    for run, one in zip((ties, breadcrumbs, dare, dare), made, strict=True):
        drawn_ = {} if one.provenance.seed is None or run is not dare else {"seed": one.provenance.seed}
        assert list(one.provenance.parents) == [d.digest for d in found]
        assert run(found, **arguments(one), **drawn_).digest == one.digest  # type: ignore[operator]


@given(several(), st.floats(0, 1), st.sampled_from(["delta", "tensor"]))
def test_interpolations_and_soups_run_again_from_json(found: list[Delta], t: float, per: str) -> None:
    a, b = found[0], found[-1]
    made = slerp(a, b, t, per=per)  # type: ignore[arg-type]
    pairs: Any = arguments(made)["coefficients"]
    assert compose([a, b], [{n: pairs[n][0] for n in a}, {n: pairs[n][1] for n in b}]) == made
    assert slerp(a, b, **{k: v for k, v in arguments(made).items() if k in ("t", "per", "parallel")}) == made  # type: ignore[arg-type]
    for soup in (uniform_soup(found), greedy_soup(found, Delta.norm).delta):
        stored = json.loads(json.dumps(soup.provenance.settings["coefficients"]))
        assert compose(found, Coefficients.from_settings(stored)) == soup


@given(several(), st.sampled_from([0.25, 0.5]))
def test_slerp_lies_in_the_plane_of_both_and_is_even(found: list[Delta], t: float) -> None:
    a, b = found[0], found[-1]
    way = slerp(a, b, t)
    if way.provenance.settings["straight"]:
        assert way == compose([a, b], [1 - t, t])
        return
    angle = way.provenance.settings["angles"]["delta"]
    assert math.cos(angle) == pytest.approx(a.cosine(b), abs=1e-6)
    back = slerp(b, a, 1 - t)
    assert (way - back).norm() <= 1e-6 * (a.norm() + b.norm()) / max(math.sin(angle), 1e-4)


@given(several(), st.data())
def test_the_greedy_soup_is_at_least_as_good_as_each_delta(found: list[Delta], data: st.DataObject) -> None:
    target = dense_of(data.draw(st.sampled_from(found)))

    def score(one: Delta) -> float:
        return -float(sum((one[n].dense().double() - 0.4 * target[n].dense()).norm() for n in target if n in one))

    soup = greedy_soup(found, score)
    assert soup.score >= max(map(score, found)) and soup.score == score(soup.delta)
    kept = [trial.delta for trial in soup.table if trial.kept]
    assert sorted(trial.delta for trial in soup.table) == list(range(len(found)))
    mean = compose(found, [1 / len(kept) if i in kept else 0.0 for i in range(len(found))])
    assert soup.delta == mean


def test_empty_and_single_entries_are_merged() -> None:
    one = Delta({"w": Dense(torch.zeros(0, 3)), "v": Dense(torch.zeros(3, 0)), "u": Dense(torch.ones(()))})
    for found in (ties([one], 1.0), dare(one, 1.0), breadcrumbs(one, 0.5, gamma=0.0), uniform_soup([one])):
        assert [tuple(c.shape) for c in found.changes.values()] == [(0, 3), (3, 0), ()] and float(
            found["u"].dense()
        ) == 1
