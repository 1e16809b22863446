"""Breadcrumbs: the ranks that are kept are exact, also where the share at the top rounds to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dtheta.compose.breadcrumbs import breadcrumbs
from dtheta.compose.ties import ties
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.ternary import Ternary
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, UnsupportedLayer
from tests.unit.compose.examples import KINDS, delta, normal
from tests.unit.compose.merges import arguments, elected, equal, merged, of_every_kind, windowed


def summed(weights: list[float]) -> Callable[[list[int], list[Tensor]], Tensor]:
    def join(members: list[int], x: list[Tensor]) -> Tensor:
        whole = torch.zeros_like(x[0])
        for i, one in zip(members, x, strict=True):
            whole = whole + weights[i] * one
        return whole

    return join


@pytest.mark.parametrize("per", ["tensor", "delta"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_delta_without_its_largest_and_smallest(tiny_mlp: nn.Module, kind: str, per: str) -> None:
    one = delta(tiny_mlp, kind)
    expected = {name: v.float() for name, v in windowed(one, 0.4, 0.1, per).items()}
    found = breadcrumbs(one, 0.4, gamma=0.1, per=per)  # type: ignore[arg-type]
    assert equal(found, expected)
    assert all(isinstance(c, Ternary) == kind.startswith("ternary") for c in found.changes.values())


@pytest.mark.parametrize("per", ["tensor", "delta"])
def test_sums_and_elections_are_the_formula(tiny_mlp: nn.Module, per: str) -> None:
    three, weights = of_every_kind(tiny_mlp), [0.5, -1.0, 2.0]
    three = [one.map(lambda _, c: Dense(c.dense())) for one in three]
    kept = [windowed(one, 0.5, 0.05, per) for one in three]
    assert equal(breadcrumbs(three, 0.5, gamma=0.05, weights=weights, per=per), merged(three, kept, summed(weights)))  # type: ignore[arg-type]
    votes = merged(three, kept, lambda m, x: elected(x, [weights[i] for i in m], "count", None))
    found = breadcrumbs(three, 0.5, gamma=0.05, weights=weights, per=per, then="ties", elect="count", divide=None)  # type: ignore[arg-type]
    assert equal(found, votes)


def test_a_top_that_rounds_to_nothing_drops_nothing(tiny_mlp: nn.Module) -> None:
    one = Delta({"w": Dense(torch.tensor([3.0, -1.0, 2.0, 0.5]))})
    assert breadcrumbs(one, 0.5, gamma=0.1)["w"].dense().tolist() == [3.0, 0.0, 2.0, 0.0]
    assert breadcrumbs(one, 0.5, gamma=0.25)["w"].dense().tolist() == [0.0, -1.0, 2.0, 0.0]
    assert breadcrumbs(one, 0.5, gamma=0.5)["w"].dense().tolist() == [0.0, -1.0, 0.0, 0.5]
    assert breadcrumbs(one, 1.0, gamma=0.0) == one
    dense = delta(tiny_mlp)
    assert breadcrumbs(dense, 0.3, gamma=0.0) == ties([dense], 0.3, per="tensor")


def test_equal_magnitudes_go_by_position() -> None:
    one = Delta({"w": Dense(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0]))})
    assert breadcrumbs(one, 0.25, gamma=0.25)["w"].dense().tolist() == [0, 0, 1, -1, 0, 0, 0, 0]
    assert breadcrumbs(one, 0.75, gamma=0.25)["w"].dense().tolist() == [0, 0, 1, -1, 1, 0, 0, 0]  # zeros are never kept
    two = Delta({"a": one["w"], "b": one["w"]})
    found = breadcrumbs(two, 3 / 16, gamma=4 / 16, per="delta")  # ranks 5 to 7 of both together
    assert found["a"].dense().tolist() == [0, 0, 0, 0, 1, 0, 0, 0] and found["b"].dense().tolist() == [
        1,
        -1,
        0,
        0,
        0,
        0,
        0,
        0,
    ]


def test_slabs_and_compiled_loops_do_not_show(tiny_mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    three = [*of_every_kind(tiny_mlp), delta(tiny_mlp, "ternary by row", 4)]
    three.append(
        Delta({"0.weight": Dense((normal(16, 12, index=9) * 3).round() / 30)}, three[0].base.restrict(["0.weight"]))
    )

    def both() -> list[Delta]:
        return [breadcrumbs(three, 0.4, gamma=0.1), breadcrumbs(three, 0.4, gamma=0.1, per="delta", then="ties")]

    whole = both()
    monkeypatch.setattr("dtheta.core.change._SLAB", 30)
    monkeypatch.setattr("dtheta.compose.entrywise._RANGE", 7)
    assert both() == whole
    monkeypatch.setenv("DTHETA_NUMBA", "0")
    assert both() == whole


def test_it_runs_again_from_a_file(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    parents = of_every_kind(tiny_mlp)
    made = breadcrumbs(parents, [0.2, 0.3, 0.5], gamma=0.02, weights=[1 / 3, -2.0, 0.1], then="ties", divide="weights")
    stored = load(made.save(tmp_path / "b.delta"))
    assert stored.provenance.operation == "breadcrumbs"
    assert breadcrumbs(parents, **arguments(stored)) == made == stored  # type: ignore[arg-type]


def test_what_cannot_be_meant(tiny_mlp: nn.Module) -> None:
    one = delta(tiny_mlp)
    for density, gamma in ((0.9, 0.2), (0.5, -0.1), (0.5, 1.0)):
        with pytest.raises(ConfigError, match=f"density={density} and gamma={gamma}"):
            breadcrumbs(one, density, gamma=gamma)
    two = [one, delta(tiny_mlp, index=1)]
    for wrong, match in (
        ({"density": [0.5]}, "1 densities were given for 2"), ({"gamma": [0.1]}, "1 gammas were given for 2"),
        ({"weights": [1.0]}, "1 weights were given for 2"), ({"gamma": "a"}, "gammas are 'a'; expected a number"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            breadcrumbs(two, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one delta"):
        breadcrumbs([])
    with pytest.raises(NonFinite, match="weights is inf"):
        breadcrumbs(one, weights=math.inf)
    with torch.no_grad():
        tiny_mlp.get_parameter("0.weight").add_(1)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        breadcrumbs([one, delta(tiny_mlp)])
    with pytest.raises(ConfigError, match=r"density of 0\.0"):
        breadcrumbs(one, 0.0, gamma=0.1)
    with pytest.raises(ConfigError, match="per="):
        breadcrumbs(one, 0.5, gamma=0.1, per="row")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mean nothing for a sum"):
        breadcrumbs(one, 0.5, gamma=0.1, divide=None)
    with pytest.raises(ConfigError, match="none of the 1 deltas"):
        breadcrumbs(Delta({}), 0.5, gamma=0.1)
    with pytest.raises(UnsupportedLayer, match="new vector"):
        breadcrumbs(Delta({"p": New(normal(3))}), 0.5, gamma=0.1)
    with pytest.raises(NonFinite, match="delta 1, w"):
        breadcrumbs([Delta({"w": Dense(normal(4))}), Delta({"w": Dense(normal(4) / 0)})], 0.5, gamma=0.1)
