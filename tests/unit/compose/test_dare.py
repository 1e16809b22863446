"""DARE: which entries are kept is a function of seed, delta, name and number alone; sums, elections, rescaling."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dtheta.compose.dare import dare
from dtheta.compose.partition import part_ids
from dtheta.compose.sieves import Draw
from dtheta.core.change import Dense, New
from dtheta.core.combination import Sum
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.seeds import key
from dtheta.core.ternary import Ternary
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, UnsupportedLayer
from tests.unit.compose.examples import KINDS, delta, normal
from tests.unit.compose.merges import arguments, drawn, elected, entries, equal, merged, of_every_kind


def scaled(found: list[Delta], keep: float, seed: int, rescale: str | None = "probability") -> list[dict[str, Tensor]]:
    kept = [drawn(one, keep, seed) for one in found]
    if rescale == "probability":
        return [{n: (1 / keep) * v for n, v in one.items()} for one in kept]
    return kept


@pytest.mark.parametrize("kind", KINDS)
def test_one_delta_loses_what_its_key_says(tiny_mlp: nn.Module, kind: str) -> None:
    one = delta(tiny_mlp, kind)
    (expected,) = scaled([one], 0.3, 5)
    found = dare(one, 0.3, seed=5)
    assert equal(found, {name: v.float() for name, v in expected.items()})
    assert all(isinstance(c, Ternary) == kind.startswith("ternary") for c in found.changes.values())


def test_sums_and_elections_are_the_formula(tiny_mlp: nn.Module) -> None:
    three, weights = of_every_kind(tiny_mlp), [0.5, -1.0, 2.0]
    three = [one.map(lambda _, c: Dense(c.dense())) for one in three]
    kept = scaled(three, 0.4, 1, None)
    sums = merged(three, kept, lambda m, x: sum((weights[i] * 2.5 * v for i, v in zip(m, x, strict=True)), 0 * x[0]))
    assert equal(dare(three, 0.4, seed=1, weights=weights), sums)
    votes = merged(
        three, scaled(three, 0.5, 1, None), lambda m, x: elected([2 * v for v in x], [weights[i] for i in m])
    )
    assert equal(dare(three, 0.5, seed=1, weights=weights, then="ties"), votes)
    raw = merged(
        three, scaled(three, 0.5, 1, None), lambda m, x: elected(x, [weights[i] for i in m], "count", "weights")
    )
    found = dare(three, 0.5, seed=1, weights=weights, rescale=None, then="ties", elect="count", divide="weights")
    assert equal(found, raw)


def test_alone_and_among_others_the_same_entries_go(tiny_mlp: nn.Module) -> None:
    three = of_every_kind(tiny_mlp)
    alone = [dare(one, 0.3, seed=7) for one in three]
    for i, one in enumerate(alone):
        only = [float(j == i) for j in range(3)]
        among, turned = dare(three, 0.3, seed=7, weights=only), dare(three[::-1], 0.3, seed=7, weights=only[::-1])
        for name in one:
            assert torch.equal(among[name].dense(), one[name].dense()) and torch.equal(
                turned[name].dense(), one[name].dense()
            )
    assert dare(three, 0.3, seed=8) != dare(three, 0.3, seed=7)


def test_other_seeds_deltas_and_names_draw_otherwise(tiny_mlp: nn.Module) -> None:
    values = torch.ones(64, 64)
    one = Delta({"a": Dense(values), "b": Dense(values)})
    found = [dare(one, 0.5, seed=s)[n].dense() for s in (0, 1) for n in ("a", "b")]
    found.append(dare(2.0 * one, 0.5, seed=0)["a"].dense() / 2)
    for i, x in enumerate(found):
        for y in found[:i]:
            share = float((x == y).double().mean())
            assert abs(share - 0.5) < 0.05  # independent draws agree in half of the entries


def test_the_draw_is_that_of_partitions() -> None:
    out = torch.empty(1000, dtype=torch.float64)
    word = key(3, "atlas/partition/w")
    for parts, keep in ((2, 0.5), (8, 0.125)):
        Draw(word, keep)(torch.ones(1000).numpy(), 40, 1.0, out.numpy())
        assert torch.equal(out != 0, part_ids(3, "w", parts, 40, 1040) == 0)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
def test_the_share_kept_and_the_expectation(keep: float) -> None:
    x = normal(300, 400)
    kept = dare(Delta({"w": Dense(x)}), keep, seed=3)["w"].dense()
    n, share = x.numel(), float((kept != 0).double().mean())
    assert abs(share - keep) < 5 * math.sqrt(keep * (1 - keep) / n)
    error = kept.double() - x.double()  # of mean 0 and variance x^2 (1 - p) / p in each entry
    assert abs(float(error.sum())) < 5 * math.sqrt(float(x.double().square().sum()) * (1 - keep) / keep)


def test_everything_can_be_kept(tiny_mlp: nn.Module) -> None:
    for kind in ("dense", "ternary"):
        assert dare(delta(tiny_mlp, kind), 1.0) == delta(tiny_mlp, kind)


@pytest.mark.parametrize("kind", ["dense", "low-rank", "ternary", "ternary by row"])
def test_l1_keeps_the_sum_of_magnitudes_of_each_tensor(tiny_mlp: nn.Module, kind: str) -> None:
    one = delta(tiny_mlp, kind)
    found = dare(one, 0.4, seed=2, rescale="l1")
    for name, whole in entries(one).items():
        kept = drawn(one, 0.4, 2)[name]
        wanted = float(whole.abs().sum()) if kept.any() else 0.0
        assert float(found[name].dense().double().abs().sum()) == pytest.approx(wanted, rel=1e-6)
        assert torch.equal(found[name].dense() != 0, kept != 0)
    assert not dare(one, 1e-9, seed=2, rescale="l1")["0.weight"].dense().any()


def test_ternary_deltas_stay_ternary_and_sum_exactly(tiny_mlp: nn.Module) -> None:
    pair = [delta(tiny_mlp, "ternary", i) for i in range(2)]
    found = dare(pair, 0.5, seed=1, weights=[1.0, 2.0])
    assert all(isinstance(c, Sum) and all(isinstance(t, Ternary) for t in c.terms) for c in found.changes.values())
    parts = [dare(one, 0.5, seed=1) for one in pair]
    for name in found:
        expected = parts[0][name].dense().double() + 2 * parts[1][name].dense().double()
        assert torch.equal(found[name].dense(), expected.float())


def test_slabs_and_compiled_loops_do_not_show(tiny_mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    three = [*of_every_kind(tiny_mlp), delta(tiny_mlp, "ternary by row", 4)]
    wide = three[0].map(lambda _, c: Dense(c.dense().double() / 3))
    given = [*three, wide]
    whole = [dare(given, 0.3, rescale="l1"), dare(given, 0.3, then="ties")]
    monkeypatch.setattr("dtheta.core.change._SLAB", 30)
    monkeypatch.setattr("dtheta.compose.entrywise._RANGE", 7)
    assert [dare(given, 0.3, rescale="l1"), dare(given, 0.3, then="ties")] == whole
    monkeypatch.setenv("DTHETA_NUMBA", "0")
    assert [dare(given, 0.3, rescale="l1"), dare(given, 0.3, then="ties")] == whole


def test_it_runs_again_from_a_file(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    parents = of_every_kind(tiny_mlp)
    made = dare(parents, [0.2, 0.3, 1.0], seed=11, weights=[1 / 3, -2.0, 0.1], rescale="l1")
    stored = load(made.save(tmp_path / "d.delta"))
    assert stored.provenance.operation == "dare" and stored.provenance.seed == 11
    assert list(stored.provenance.parents) == [p.digest for p in parents]
    assert dare(parents, seed=11, **arguments(stored)) == made == stored  # type: ignore[arg-type]


def test_what_cannot_be_merged(tiny_mlp: nn.Module) -> None:
    one = delta(tiny_mlp)
    with pytest.raises(ConfigError, match="at least one delta"):
        dare([])
    with pytest.raises(ConfigError, match="none of the 1 deltas changes"):
        dare(Delta({}))
    with pytest.raises(UnsupportedLayer, match="delta 0: 'prompt' is a new vector"):
        dare(Delta({"prompt": New(normal(2, 3))}))
    with pytest.raises(ConfigError, match="1 weights were given for 2"):
        dare([one, one], weights=[1.0])
    hurt = one.map(lambda n, c: Dense(c.dense().index_fill(0, torch.tensor(3), math.nan)) if n == "2.bias" else c)
    for rescale in ("probability", "l1"):
        with pytest.raises(NonFinite, match=r"2\.bias: .*NaN or infinity among the entries 0"):
            dare([one, hurt], 1e-6, rescale=rescale)  # also where the entry is dropped
    with pytest.raises(NonFinite, match="overflows"):
        dare(one, weights=1e300)
    with pytest.raises(NonFinite, match="a scale times"):
        dare(delta(tiny_mlp, "ternary"), weights=1e300)
    with torch.no_grad():
        tiny_mlp.get_parameter("0.weight").add_(1)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        dare([one, delta(tiny_mlp)])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"density": 0.0}, "density=0.0"), ({"density": 1.1}, "density=1.1"), ({"density": [0.1, 0.2]}, "2 densities"),
        ({"density": 1e-17}, "density=1e-17"), ({"seed": True}, "seed is True"),
        ({"seed": 0.5}, "seed is 0.5"), ({"rescale": "l2"}, "rescale="), ({"then": "mean"}, "then="),
        ({"elect": "count"}, "mean nothing for a sum"), ({"divide": None}, "mean nothing for a sum"),
        ({"then": "ties", "elect": "most"}, "elect="),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_cannot_be_meant(tiny_mlp: nn.Module, wrong: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dare(delta(tiny_mlp), **wrong)
