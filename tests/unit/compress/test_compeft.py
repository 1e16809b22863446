"""compress: against the plain formula, what it refuses, and that what comes out is a delta like any other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.compress.compeft import compress
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.ternary import Ternary
from dtheta.errors import ConfigError, NonFinite, UnknownParameter
from tests.unit.compress.reference import dense_delta, draw, mean_abs, top_signs


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 1.0])
def test_one_threshold_and_one_scale_for_all_parameters(density: float) -> None:
    delta = dense_delta(b=(13, 7), a=(50,), c=(3, 2, 5, 1), d=())
    packed = compress(delta, density)
    values = {name: delta[name].dense() for name in delta}
    signs = top_signs(values, density)
    scale = mean_abs(values, signs)
    for name in delta:
        assert isinstance(packed[name], Ternary)
        torch.testing.assert_close(packed[name].dense().double(), scale * signs[name], rtol=2e-7, atol=0)
    assert len({float(packed[name].scale) for name in delta}) == 1  # type: ignore[attr-defined]


def test_exactly_k_entries_are_kept_and_of_equals_the_first() -> None:
    delta = Delta({"b": Dense(torch.full((3, 5), -2.0)), "a": Dense(torch.tensor([1.0, 2.0, 0.0]))})
    packed = compress(delta, 4 / 18)
    assert packed["a"].dense().tolist() == [0.0, 2.0, 0.0]
    assert packed["b"].dense().reshape(-1).tolist() == [-2.0] * 3 + [0.0] * 12


@pytest.mark.parametrize("per", ["tensor", "row"])
def test_density_and_scale_of_each_tensor_or_row(per: str) -> None:
    delta = dense_delta(a=(9, 20), b=(30,))
    packed = compress(delta, 0.2, per=per)
    for name in delta:
        values = delta[name].dense()
        rows = values if per == "row" and values.ndim == 2 else values.reshape(1, -1)
        expected = []
        for row in rows:
            signs = top_signs({"": row}, 0.2)
            expected.append(signs[""] * mean_abs({"": row}, signs))
        torch.testing.assert_close(
            packed[name].dense().double(), torch.stack(expected).reshape(values.shape), rtol=2e-7, atol=0
        )


def test_each_row_has_its_own_scale_and_a_vector_is_one_row() -> None:
    packed = compress(dense_delta(a=(9, 20), b=(30,)), 0.2, per="row")
    assert packed["a"].scale.shape == (9,) and packed["b"].scale.shape == ()  # type: ignore[attr-defined]


def test_alpha_sigma_is_the_unbiased_deviation_of_everything_not_of_what_is_kept() -> None:
    delta = dense_delta(a=(40, 30), b=(100,)) + Delta({"a": Dense(torch.full((40, 30), 1e-3))})
    line = torch.cat([delta["a"].dense().reshape(-1), delta["b"].dense()]).double()
    packed = compress(delta, 0.1, "alpha-sigma", alpha=3.0)
    assert float(packed["a"].scale) == pytest.approx(3 * float(line.std()), rel=1e-6)  # type: ignore[attr-defined]


def test_a_zero_delta_stays_zero() -> None:
    zero = Delta({"a": Dense(torch.zeros(4, 5)), "l": LowRank(draw(4, 2), torch.zeros(2, 3))})
    for scale in ("mean-abs", "alpha-sigma", "least-squares"):
        packed = compress(zero.restrict("a"), 0.5, scale)
        assert packed.norm() == 0.0 and float(packed["a"].scale) == 0.0  # type: ignore[attr-defined]
        assert compress(zero, 0.5, scale).norm() == 0.0


def test_empty_tensors_and_single_entries_are_compressed_too() -> None:
    delta = Delta({"none": Dense(torch.zeros(0, 3)), "one": Dense(torch.tensor(-0.5))})
    packed = compress(delta, 0.1)
    assert packed["none"].dense().shape == (0, 3) and float(packed["one"].dense()) == -0.5


def test_the_original_is_not_changed_and_the_order_of_names_stays() -> None:
    delta = dense_delta(z=(5, 4), a=(6,))
    before = delta.digest, {name: delta[name].dense().clone() for name in delta}
    packed = compress(delta, 0.3)
    assert list(packed) == ["z", "a"]
    assert delta.digest == before[0] and all(torch.equal(delta[name].dense(), before[1][name]) for name in delta)


def test_kept_parameters_are_the_very_same_and_do_not_count() -> None:
    delta = dense_delta(**{"layer.weight": (8, 9), "layer.bias": (8,), "head.weight": (3, 8)})
    packed = compress(delta, 0.2, keep="*.bias|head.*")
    assert packed["layer.bias"] is delta["layer.bias"] and packed["head.weight"] is delta["head.weight"]
    assert packed["layer.weight"].count == math.floor(0.2 * 72 + 0.5)  # type: ignore[attr-defined]
    assert packed.provenance.settings["keep"] == "*.bias|head.*"


def test_the_provenance_says_how_it_was_made() -> None:
    delta = dense_delta(a=(10, 10))
    made = compress(delta, 0.25, "alpha-sigma", alpha=2, per="tensor").provenance
    assert made.operation == "compress" and made.parents == [delta.digest]
    wanted = {"density": 0.25, "scale": "alpha-sigma", "alpha": 2.0, "per": "tensor", "of": "factors", "kept": 25}
    assert {key: made.settings[key] for key in wanted} == wanted


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("per", ["delta", "tensor", "row"])
def test_what_is_not_finite_is_refused_by_name(bad: float, per: str) -> None:
    values = torch.ones(3, 4)
    values[1, 2] = bad
    delta = Delta({"good": Dense(torch.ones(2)), "layer.3.weight": Dense(values)})
    with pytest.raises(NonFinite, match=r"layer\.3\.weight"):
        compress(delta, 0.5, per=per)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 0.0}, "share of entries"),
        ({"density": 5}, "0.05 for 5 %"),
        ({"density": math.nan}, "share of entries"),
        ({"scale": "stc"}, "mean-abs, alpha-sigma, least-squares"),
        ({"alpha": 0.0}, "positive"),
        ({"alpha": math.inf}, "positive"),
        ({"per": "layer"}, "delta, tensor, row"),
        ({"of": "entries"}, "factors, balanced, product"),
        ({"keep": "*"}, "nothing is left"),
    ],
)
def test_arguments_that_cannot_be_meant(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compress(dense_delta(a=(4, 4)), **options)


def test_keep_must_name_something() -> None:
    with pytest.raises(UnknownParameter, match=r"did you mean 'head\.bias'"):
        compress(dense_delta(**{"head.bias": (4,), "x": (4,)}), keep="haed.bias")


def test_a_scale_beyond_float32_is_refused() -> None:
    delta = Delta({"a": Dense(torch.tensor([1e38, 1.0]))})
    with pytest.raises(NonFinite, match="alpha=10"):
        compress(delta, 0.5, alpha=10.0)


def test_one_entry_has_no_deviation() -> None:
    with pytest.raises(ConfigError, match="mean-abs"):
        compress(Delta({"a": Dense(torch.tensor([2.0]))}), 1.0, "alpha-sigma")
    with pytest.raises(ConfigError, match="rows of one entry"):
        compress(Delta({"a": Dense(torch.ones(4, 1))}), 1.0, "alpha-sigma", per="row")


def test_float64_entries_are_compared_as_such() -> None:
    values = torch.tensor([1.0, 1.0 + 1e-12, 1.0 - 1e-12], dtype=torch.float64)
    packed = compress(Delta({"a": Dense(values), "b": Dense(torch.tensor([0.5]))}), 0.25)
    assert packed["a"].dense().count_nonzero() == 1 and packed["a"].dense()[1] > 0
    assert packed["a"].dense().dtype == torch.float64


def test_it_applies_adds_and_reverts_as_any_delta() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    delta = Delta({name: Dense(0.1 * torch.ones_like(t)) for name, t in before.items()}, dt.fingerprint(model))
    packed = compress(delta, 0.5)
    with dt.applied(model, 2.0 * packed + delta):
        moved = model.state_dict()["0.weight"]
        torch.testing.assert_close(moved, before["0.weight"] + 2 * packed["0.weight"].dense() + 0.1)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_training_goes_on_from_a_compressed_delta(tiny_mlp: nn.Module) -> None:
    delta = Delta({"0.weight": LowRank(draw(16, 2), draw(2, 12))}, dt.fingerprint(tiny_mlp).restrict(["0.weight"]))
    packed = compress(delta, 0.4)
    x = draw(3, 12)
    with dt.applied(tiny_mlp, packed):
        expected = tiny_mlp(x)
    adapter = dt.attach(tiny_mlp, packed)
    torch.testing.assert_close(adapter(x), expected)
    adapter.detach()


def test_a_compressed_delta_goes_through_a_file(tmp_path) -> None:
    delta = dense_delta(a=(30, 20), b=(7,)) + Delta({"l": LowRank(draw(9, 2), draw(2, 8))})
    packed = compress(delta, 0.2)
    try:
        path = packed.save(tmp_path / "packed.delta")
    except ConfigError as error:
        pytest.skip(f"the file format does not know ternary changes yet: {error}")
    assert dt.load(path) == packed


def test_numba_and_numpy_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    delta = dense_delta(a=(33, 17), b=(61,))
    found = []
    for value in ("1", "0"):
        monkeypatch.setenv("DTHETA_NUMBA", value)
        found.append([compress(delta, 0.2, per=per).digest for per in ("delta", "tensor", "row")])
    assert found[0] == found[1]


@pytest.mark.parametrize("density", [np.float32(0.25), torch.tensor(0.25), np.float64(0.25)])
def test_numbers_of_other_libraries_can_be_saved(density: float, tmp_path: Path) -> None:
    packed = compress(dense_delta(a=(8, 9)), density, alpha=np.float32(2.0))  # type: ignore[arg-type]
    found = dt.load(packed.save(tmp_path / "packed.delta")).provenance.settings
    assert found["density"] == 0.25 and found["alpha"] == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": "0.1"}, "density '0.1' is not in"),
        ({"density": None}, "density None is not in"),
        ({"alpha": "1"}, "alpha='1' must be a positive number"),
        ({"keep": ["a"]}, "keep=.* is no glob; alternatives are joined in one text"),
    ],
)
def test_what_is_no_number_or_glob(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compress(dense_delta(a=(8, 9)), **arguments)


@pytest.mark.parametrize("wrong", ["a.delta", None, [Delta({})]])
def test_what_is_no_delta(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="expected one delta"):
        compress(wrong, 0.1)
