"""SLERP: the formula on dense vectors, at the ends the deltas themselves, straight where it says so and why."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dtheta.compose.coefficients import blocks
from dtheta.compose.compose import compose
from dtheta.compose.slerp import slerp
from dtheta.core.apply import merge
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.tensors import base_tensors
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, UnsupportedLayer
from tests.unit.compose.examples import KINDS, delta, normal
from tests.unit.compose.merges import arguments


def turned(x: Tensor, y: Tensor, t: float) -> Tensor:
    """The formula on flat float64 vectors."""
    omega = torch.arccos((x @ y) / (x.norm() * y.norm()))
    return (torch.sin((1 - t) * omega) * x + torch.sin(t * omega) * y) / torch.sin(omega)


def flat(one: Delta, names: list[str]) -> Tensor:
    return torch.cat([one[n].dense().double().reshape(-1) for n in names])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [0.25, 0.5])
def test_the_whole_delta_turns_by_one_angle(tiny_mlp: nn.Module, kind: str, t: float) -> None:
    a, b = delta(tiny_mlp, kind, 0), delta(tiny_mlp, kind, 1)
    found, names = slerp(a, b, t), list(blocks([a, b]))
    assert torch.allclose(flat(found, names), turned(flat(a, names), flat(b, names), t), rtol=1e-5, atol=1e-7)
    assert found.provenance.settings["straight"] == {} and list(found.provenance.settings["angles"]) == ["delta"]
    if kind in ("low-rank", "ternary"):
        assert not any(isinstance(leaf, Dense) for c in found.changes.values() for leaf in c.leaves())


def test_each_tensor_turns_by_its_own(tiny_mlp: nn.Module) -> None:
    a, b = delta(tiny_mlp, "every", 0), delta(tiny_mlp, "every", 3)
    found = slerp(a, b, 0.3, per="tensor")
    for name in a:
        assert torch.allclose(flat(found, [name]), turned(flat(a, [name]), flat(b, [name]), 0.3), rtol=1e-5, atol=1e-7)


def test_vectors_of_one_length_keep_it_and_turn_evenly() -> None:
    a, b = (Delta({"w": Dense(torch.tensor(v, dtype=torch.float64))}) for v in ([1.0, 0.0, 0.0], [-0.6, 0.8, 0.0]))
    omega = math.acos(-0.6)
    for t in (0.1, 0.5, 0.9):
        found = slerp(a, b, t)
        assert found.norm() == pytest.approx(1.0) and math.acos(found.cosine(a)) == pytest.approx(t * omega)
        assert found.provenance.settings["angles"]["delta"] == pytest.approx(omega)


def test_at_the_ends_are_the_deltas(tiny_mlp: nn.Module) -> None:
    a, b = delta(tiny_mlp, "every", 0), delta(tiny_mlp, "every", 3)
    for base in (None, tiny_mlp):
        for per in ("delta", "tensor"):
            assert slerp(a, b, 0.0, per=per, base=base) == a and slerp(a, b, 1.0, per=per, base=base) == b  # type: ignore[arg-type]


@pytest.mark.parametrize("per", ["delta", "tensor"])
def test_points_turn_around_zero(tiny_mlp: nn.Module, per: str) -> None:
    a, b = delta(tiny_mlp, "low-rank", 0), delta(tiny_mlp, "dense", 1, ["0.weight", "2.bias"])
    found = merge(tiny_mlp, slerp(a, b, 0.3, per=per, base=tiny_mlp)).state_dict()  # type: ignore[arg-type]
    points = [merge(tiny_mlp, one).state_dict() for one in (a, b)]
    groups = [list(a)] if per == "delta" else [[n] for n in a]
    for names in groups:
        x, y, z = (torch.cat([p[n].double().reshape(-1) for n in names]) for p in (*points, found))
        straight = torch.allclose(x, y)  # parameters that no delta... none here, but equal ones have no angle
        assert straight or torch.allclose(z, turned(x, y, 0.3), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        tiny_mlp.get_parameter("0.weight").add_(1)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        slerp(a, b, base=tiny_mlp)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        slerp(a, b, base=base_tensors(tiny_mlp))


@pytest.mark.parametrize(("factor", "how"), [(2.0, "one direction"), (-1.0, "opposite directions"), (0.0, "is zero")])
def test_where_there_is_no_circle_the_line_is_straight_and_says_so(
    tiny_mlp: nn.Module, factor: float, how: str
) -> None:
    a = delta(tiny_mlp)
    b = a.map(lambda _, c: Dense(factor * c.dense()))
    found = slerp(a, b, 0.3)
    assert how in found.provenance.settings["straight"]["delta"]
    assert found == compose([a, b], [0.7, 0.3])
    each = slerp(a, b, 0.3, per="tensor")
    assert set(each.provenance.settings["straight"]) == set(a) and each == found


def test_a_parameter_of_one_delta_only_goes_straight_by_itself(tiny_mlp: nn.Module) -> None:
    a, b = delta(tiny_mlp), delta(tiny_mlp, index=1, names=["0.weight"])
    found = slerp(a, b, 0.25, per="tensor")
    assert set(found.provenance.settings["straight"]) == {"0.bias", "2.weight", "2.bias"}
    assert torch.allclose(found["2.bias"].dense(), 0.75 * a["2.bias"].dense())


def test_parallel_says_what_is_nearly_so() -> None:
    a, b = Delta({"w": Dense(torch.tensor([1.0, 0.0]))}), Delta({"w": Dense(torch.tensor([1.0, 0.01]))})
    assert (
        not slerp(a, b).provenance.settings["straight"] and slerp(a, b, parallel=0.02).provenance.settings["straight"]
    )


def test_new_vectors_turn_too() -> None:
    a, b = (Delta({"p": New(normal(5, index=i))}) for i in range(2))
    assert torch.allclose(flat(slerp(a, b), ["p"]), turned(flat(a, ["p"]), flat(b, ["p"]), 0.5), atol=1e-6)


@pytest.mark.parametrize("per", ["delta", "tensor"])
def test_it_runs_again_from_a_file(tiny_mlp: nn.Module, tmp_path: Path, per: str) -> None:
    a, b = delta(tiny_mlp, "low-rank", 0), delta(tiny_mlp, "ternary", 3, ["0.weight"])
    made = slerp(a, b, 1 / 3, per=per)  # type: ignore[arg-type]
    stored = load(made.save(tmp_path / "s.delta"))
    settings = arguments(stored)
    assert slerp(a, b, settings["t"], per=settings["per"], parallel=settings["parallel"]) == made == stored  # type: ignore[arg-type]
    pairs: dict = settings["coefficients"]  # type: ignore[assignment]
    assert compose([a, b], [{n: pairs[n][0] for n in a}, {n: pairs[n][1] for n in b}]) == made
    points = load(slerp(a, b, 1 / 3, per=per, base=tiny_mlp).save(tmp_path / "p.delta"))  # type: ignore[arg-type]
    settings = points.provenance.settings
    assert list(points.provenance.parents) == [a.digest, b.digest] and settings["of"] == "points"
    options = {name: settings[name] for name in ("t", "per", "parallel")}
    assert slerp(a, b, base=tiny_mlp, **options) == points


def test_what_cannot_be_meant(tiny_mlp: nn.Module) -> None:
    a, b = delta(tiny_mlp), delta(tiny_mlp, index=1)
    for wrong in ({"t": 1.5}, {"t": "0.5"}, {"per": "row"}, {"parallel": 1.0}):
        with pytest.raises(ConfigError):
            slerp(a, b, **wrong)  # type: ignore[arg-type]
    with pytest.raises(NonFinite, match=r"delta 1, 2\.bias: NaN"):
        slerp(a, b.map(lambda n, c: Dense(c.dense() / 0) if n == "2.bias" else c), per="tensor")
    huge = Delta({"w": Dense(torch.full((2,), 1e200, dtype=torch.float64))})
    with pytest.raises(NonFinite, match="t is nan"):
        slerp(a, b, math.nan)
    with pytest.raises(NonFinite, match="numbers too large"):
        slerp(huge, huge)
    with pytest.raises(ConfigError, match="item 1 is a str"):
        slerp(a, "b.delta")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedLayer, match="new vector"):
        slerp(Delta({"p": New(normal(5))}), Delta({"p": Dense(normal(5))}))
    with torch.no_grad():
        tiny_mlp.get_parameter("0.weight").add_(1)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        slerp(a, delta(tiny_mlp))
