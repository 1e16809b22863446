"""TIES: exactly the formula on dense vectors, by planes where all are ternary, at any slab; errors that say where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dtheta.compose.ties import ties
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.planes import Planes
from dtheta.core.spectral import Spectral
from dtheta.core.ternary import Ternary, ternary
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, ShapeMismatch, UnsupportedLayer
from tests.unit.compose.examples import delta, normal
from tests.unit.compose.merges import arguments, dense_of, elected, equal, merged, of_every_kind, windowed


def signs(*rows: list[int], scale: float | torch.Tensor = 0.5) -> list[Delta]:
    """Ternary deltas of one parameter."""
    made = [
        ternary(Planes.from_signs(torch.tensor(r, dtype=torch.int8)), torch.as_tensor(scale), (len(r),)) for r in rows
    ]
    return [Delta({"w": one}) for one in made]


def plain(found: list[Delta], density: float, weights: list[float], per: str = "delta", **rules: object) -> dict:
    kept = [windowed(one, density, 0.0, per) for one in found]
    return merged(found, kept, lambda m, x: elected(x, [weights[i] for i in m], **rules))  # type: ignore[arg-type]


@pytest.mark.parametrize("per", ["delta", "tensor"])
@pytest.mark.parametrize("elect", ["total", "count"])
@pytest.mark.parametrize("divide", ["count", "weights", None])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 1.7, -0.4], [0.3, 0.3, 0.3]], ids=str)
def test_it_is_the_formula(tiny_mlp: nn.Module, per: str, elect: str, divide: str | None, weights: list[float]) -> None:
    three = of_every_kind(tiny_mlp)
    rules = {"elect": elect, "divide": divide, "factor": 1.5}
    found = ties(three, 0.3, weights, per=per, **rules)  # type: ignore[arg-type]
    assert equal(found, plain(three, 0.3, weights, per, **rules))


@pytest.mark.parametrize(
    "kind", ["dense", "low-rank", "ternary", "ternary by row", "rows", "spectral", "fused", "mixed"]
)
def test_every_form_is_merged_by_its_entries(tiny_mlp: nn.Module, kind: str) -> None:
    pair = [delta(tiny_mlp, kind, i) for i in range(2)]
    expected = plain(pair, 0.25, [1.0, 2.0])
    assert equal(ties(pair, 0.25, [1.0, 2.0]), expected) and equal(
        ties(list(map(dense_of, pair)), 0.25, [1, 2]), expected
    )


def test_the_density_is_of_the_whole_delta_and_exact(tiny_mlp: nn.Module) -> None:
    one = delta(tiny_mlp)
    small = one.map(lambda n, c: c if n == "0.weight" else Dense(1e-6 * c.dense()))
    whole = ties([small], 0.2)
    assert sum(int(c.dense().count_nonzero()) for c in whole.changes.values()) == round(0.2 * one.numel)
    assert not whole["2.weight"].dense().any()
    each = ties([small], 0.2, per="tensor")
    assert [int(each[n].dense().count_nonzero()) for n in each] == [
        max(1, round(0.2 * c.dense().numel())) for c in one.changes.values()
    ]
    half = ties([one, one], [1.0, 0.5], [0.0, 1.0])
    assert sum(int(c.dense().count_nonzero()) for c in half.changes.values()) == one.numel // 2


def test_everything_of_one_delta_is_that_delta(tiny_mlp: nn.Module) -> None:
    assert ties([delta(tiny_mlp)], 1.0) == delta(tiny_mlp)
    ternary_one = delta(tiny_mlp, "ternary")
    assert ties([ternary_one], 1.0) == ternary_one == ties(ternary_one, 1.0)


@pytest.mark.parametrize("weight", [1.0, 0.3, -0.7])
@pytest.mark.parametrize("divide", ["count", "weights"])
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_planes_of_one_scale_and_weight_vote(tiny_mlp: nn.Module, weight: float, divide: str, density: float) -> None:
    three = [delta(tiny_mlp, "ternary", i) for i in range(3)]
    found = ties(three, density, weight, divide=divide, factor=0.9)  # type: ignore[arg-type]
    assert all(isinstance(change, Ternary) for change in found.changes.values())
    expected = ties(list(map(dense_of, three)), density, weight, divide=divide, factor=0.9)  # type: ignore[arg-type]
    assert equal(found, {name: change.dense() for name, change in expected.changes.items()})
    assert any(change.dense().any() for change in found.changes.values())


@pytest.mark.parametrize("scale", [0.1, -0.1])
def test_a_tie_is_positive_whatever_the_weight(scale: float) -> None:
    for weight in (1.0, 0.3):
        opposed = signs([1, -1, 1, 0], [1, -1, -1, 0], [-1, 1, 0, 0], [-1, 1, 0, 0], scale=scale)
        for form in (opposed, list(map(dense_of, opposed))):
            value = (weight * torch.tensor(scale).abs().double()).float()
            assert torch.equal(ties(form, 1.0, weight)["w"].dense(), torch.tensor([1, 1, 1, 0]) * value)


def test_planes_whose_mean_is_no_one_number_become_dense() -> None:
    pair = signs([1, 1, -1], [1, 0, -1])
    summed = ties(pair, 1.0, divide=None)["w"]
    assert isinstance(summed, Dense) and summed.dense().tolist() == [1.0, 0.5, -1.0]
    other = [pair[0], signs([1, 1, -1], scale=0.25)[0]]
    assert isinstance(ties(other, 1.0)["w"], Dense) and ties(other, 1.0)["w"].dense().tolist() == [0.375, 0.375, -0.375]
    wide = signs([1, 1, -1], [1, 0, -1], [1, 1, -1], scale=torch.tensor(0.1).double() / 3)
    assert equal(ties(wide, 1.0), {"w": ties(list(map(dense_of, wide)), 1.0)["w"].dense()})


def test_slabs_and_compiled_loops_do_not_show(tiny_mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    three = [*of_every_kind(tiny_mlp), delta(tiny_mlp, "ternary by row", 4)]
    coarse = Dense((normal(16, 12, index=9) * 3).round() / 30)  # many entries equal to the threshold
    three.append(Delta({**three[0].changes, "0.weight": coarse}, three[0].base))
    whole = ties(three, 0.3, [1, 2, 3, 4, 5])
    monkeypatch.setattr("dtheta.core.change._SLAB", 30)
    monkeypatch.setattr("dtheta.compose.entrywise._RANGE", 7)
    assert ties(three, 0.3, [1, 2, 3, 4, 5]) == whole
    monkeypatch.setenv("DTHETA_NUMBA", "0")
    assert ties(three, 0.3, [1, 2, 3, 4, 5]) == whole


def test_float64_stays_and_other_names_do_not(tiny_mlp: nn.Module) -> None:
    wide = delta(tiny_mlp).map(lambda _, c: Dense(c.dense().double() / 3))
    pair = [wide, delta(tiny_mlp, "low-rank", 1, ["2.weight", "0.bias"])]
    found = ties(pair, 0.4)
    assert equal(found, plain(pair, 0.4, [1.0, 1.0])) and found["2.weight"].dtype == torch.float64
    assert list(found) == list(wide) and set(found.base.digests) == set(wide.base.digests)


def test_it_runs_again_from_a_file(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    parents = of_every_kind(tiny_mlp)
    made = ties(parents, [0.2, 0.3, 1.0], [1 / 3, -2.0, 0.1], per="tensor", elect="count", divide="weights", factor=0.7)
    stored = load(made.save(tmp_path / "t.delta"))
    assert stored.provenance.operation == "ties" and list(stored.provenance.parents) == [p.digest for p in parents]
    assert ties(parents, **arguments(stored)) == made == stored  # type: ignore[arg-type]


def test_what_cannot_be_merged(tiny_mlp: nn.Module) -> None:
    one, other = delta(tiny_mlp), delta(tiny_mlp, index=1)
    with pytest.raises(ConfigError, match="at least one delta"):
        ties([])
    with pytest.raises(ConfigError, match="item 0 is a str"):
        ties(["a.delta"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="none of the 2 deltas changes"):
        ties([Delta({}), Delta({})])
    with pytest.raises(UnsupportedLayer, match="delta 1: 'prompt' is a new vector"):
        ties([one, Delta({"prompt": New(normal(2, 3))})])
    with pytest.raises(ConfigError, match="needs its base to become a matrix"):
        ties(Delta({"w": Spectral(normal(2), (4, 5))}))
    with pytest.raises(ShapeMismatch, match="w"):
        ties([Delta({"w": Dense(normal(2, 3))}), Delta({"w": Dense(normal(3, 2))})])
    for bad in (float("nan"), float("inf")):
        hurt = other.map(lambda n, c, bad=bad: Dense(torch.full_like(c.dense(), bad)) if n == "2.bias" else c)
        with pytest.raises(NonFinite, match=r"delta 1: .*2\.bias"):
            ties([one, hurt])
        with pytest.raises(NonFinite, match=r"delta 1, 2\.bias"):
            ties([one, hurt], per="tensor")
    with pytest.raises(NonFinite, match="delta 0: a scale"):
        ties(signs([1, 0, 0], scale=float("nan")), 1.0)
    with pytest.raises(NonFinite, match=r"0\.bias: the merge overflows float32"):
        ties([one], weights=1e300)
    with pytest.raises(NonFinite, match="w: the merge overflows float32"):
        ties(signs([1, 1, 0], [1, 1, 1]), 1.0, 1e300)
    with torch.no_grad():
        tiny_mlp.get_parameter("0.weight").add_(1)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        ties([one, delta(tiny_mlp)])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"density": 0.0}, "density of 0.0"), ({"density": 1.5}, "density of 1.5"),
        ({"density": "0.2"}, "expected a number, or one for each"), ({"density": None}, "expected a number, or one"),
        ({"density": [0.1]}, "1 densities were given for 2"), ({"weights": [1.0]}, "1 weights were given for 2"),
        ({"weights": ["a", "b"]}, "expected a number"), ({"per": "row"}, "per='row'"), ({"elect": "most"}, "elect="),
        ({"divide": "sum"}, "divide="),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_cannot_be_meant(tiny_mlp: nn.Module, wrong: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ties([delta(tiny_mlp), delta(tiny_mlp, index=1)], **wrong)
    with pytest.raises(NonFinite, match="factor"):
        ties([delta(tiny_mlp)], factor=float("inf"))
    with pytest.raises(NonFinite, match="weights"):
        ties([delta(tiny_mlp)], weights=float("nan"))


@pytest.mark.parametrize("densities", [{0.1, 0.2}, {0.1: 1, 0.2: 2}, "0.1", None])
def test_numbers_for_each_delta_have_an_order(tiny_mlp: nn.Module, densities: object) -> None:
    with pytest.raises(ConfigError, match=r"the densities are .*expected a number, or one for each delta"):
        ties([delta(tiny_mlp), delta(tiny_mlp, index=1)], densities)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dense", "ternary"])
def test_a_divisor_next_to_zero_counts_as_one_whether_weights_are_equal_or_not(tiny_mlp: nn.Module, kind: str) -> None:
    one = delta(tiny_mlp, kind)
    values = one["0.weight"].dense().double()
    for weights in ([1e-9, 1e-9], [1e-9, 1.5e-9]):
        found = ties([one, one], 1.0, weights, divide="weights")["0.weight"].dense().double()
        torch.testing.assert_close(found, sum(weights) * values, rtol=1e-6, atol=0)
