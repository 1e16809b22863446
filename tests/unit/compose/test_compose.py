"""Composition: every form of coefficients, provenance that makes the same bits again, and what cannot be composed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from dtheta.compose.coefficients import Coefficients, blocks
from dtheta.compose.compose import compose
from dtheta.compose.partition import part_ids
from dtheta.core.apply import applied
from dtheta.core.change import New
from dtheta.core.combination import Sum
from dtheta.core.delta import Delta, total
from dtheta.core.files import load
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, ShapeMismatch, UnknownParameter, UnsupportedLayer
from tests.unit.compose.examples import delta, normal


@pytest.fixture
def three(tiny_mlp: nn.Module) -> list[Delta]:
    return [delta(tiny_mlp, "low-rank"), delta(tiny_mlp, "ternary", 1), delta(tiny_mlp, "dense", 2, ["0.weight"])]


def test_all_forms_of_coefficients(three: list[Delta]) -> None:
    a, b, c = three
    assert compose(three, 0.5) == total([0.5 * a, 0.5 * b, 0.5 * c])
    assert compose(three, [0.5, -1.0, 2.0]) == total([0.5 * a, -1.0 * b, 2.0 * c])
    table = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3) * torch.tensor([[1.0], [2.0], [3.0]])
    by_block = [dict(zip(blocks(three), row, strict=True)) for row in table.tolist()]
    by_block[2] = {"0.weight": 3.0}
    assert compose(three, table) == compose(three, by_block)
    found = compose(three, table)
    assert torch.allclose(found["2.weight"].dense(), 3 * a["2.weight"].dense() + 6 * b["2.weight"].dense())
    assert isinstance(found["0.weight"], Sum) and len(found["0.weight"].terms) == 3


def test_one_delta_with_weight_one_is_itself(three: list[Delta]) -> None:
    assert all(compose([d], 1.0) == d and compose([d], 1.0).provenance.parents == [d.digest] for d in three)


def test_zero_terms_and_blocks_are_left_out(three: list[Delta]) -> None:
    found = compose(three, [0.0, 1.0, 0.0])
    assert found == three[1]
    assert not len(compose(three, 0.0))
    values = torch.zeros(3, 4)
    values[0, 2] = 1.0
    assert list(compose(three, values)) == [blocks(three)[2]] == list(compose(three, values).base.digests)


@pytest.mark.parametrize("parts", [1, 5])
def test_composition_runs_again_to_the_same_bits_from_json(tiny_mlp: nn.Module, parts: int) -> None:
    deltas = [delta(tiny_mlp, "every", i) for i in range(3)]
    values = normal(3, len(blocks(deltas)), parts)
    first = compose(deltas, Coefficients(tuple(d.digest for d in deltas), blocks(deltas), values, 11))
    settings = json.loads(json.dumps(first.provenance.settings["coefficients"]))
    again = compose(deltas, Coefficients.from_settings(settings))
    assert again.digest == first.digest and again.provenance.parents == [d.digest for d in deltas]
    assert first.provenance.operation == "compose" and first.provenance.seed == 11
    for name in first:
        assert torch.equal(first[name].dense(), again[name].dense())


def test_composition_runs_again_from_a_file(three: list[Delta], tmp_path: object) -> None:
    dense = [three[0], three[2]]
    path = compose(dense, [0.3, 1 / 3]).save(f"{tmp_path}/c.delta")
    stored = load(path)
    assert compose(dense, Coefficients.from_settings(stored.provenance.settings["coefficients"])) == stored


def test_parts_are_what_their_definition_says(tiny_mlp: nn.Module) -> None:
    deltas = [delta(tiny_mlp, "every", i) for i in range(2)]
    names, parts = blocks(deltas), 3
    values = normal(2, len(names), parts).double()
    found = compose(deltas, Coefficients(tuple(d.digest for d in deltas), names, values, 4))
    for j, name in enumerate(names):
        ids = part_ids(4, name, parts, 0, math.prod(found[name].shape)).reshape(found[name].shape)
        expected = sum(values[i, j][ids] * d[name].dense().double() for i, d in enumerate(deltas))
        assert torch.allclose(found[name].dense().double(), torch.as_tensor(expected), atol=1e-7)


def test_a_composition_applies(tiny_mlp: nn.Module, three: list[Delta]) -> None:
    before = tiny_mlp[0].weight.detach().clone()
    with applied(tiny_mlp, compose(three, [1.0, 2.0, 3.0])):
        moved = sum(w * d["0.weight"].dense() for w, d in zip((1.0, 2.0, 3.0), three, strict=True))
        assert torch.allclose(tiny_mlp[0].weight, before + moved, atol=1e-6)


def test_new_vectors_are_composed_but_not_split() -> None:
    prompts = [Delta({"prompt": New(normal(2, 3, index=i))}) for i in range(2)]
    found = compose(prompts, [2.0, 3.0])
    assert torch.allclose(found["prompt"].dense(), 2 * prompts[0]["prompt"].dense() + 3 * prompts[1]["prompt"].dense())
    split = Coefficients(tuple(p.digest for p in prompts), ("prompt",), torch.ones(2, 1, 2), 0)
    with pytest.raises(UnsupportedLayer, match="prompt: a new vector"):
        compose(prompts, split)


def test_deltas_must_share_their_base(tiny_mlp: nn.Module, three: list[Delta]) -> None:
    with torch.no_grad():
        tiny_mlp[0].weight += 1
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        compose([three[0], delta(tiny_mlp)], 1.0)


def test_coefficients_belong_to_their_deltas(three: list[Delta]) -> None:
    zeros = Coefficients.zeros(three)
    with pytest.raises(BaseMismatch, match="another order"):
        compose(three[::-1], zeros)
    with pytest.raises(BaseMismatch, match="other deltas"):
        compose(three[:2], zeros)
    wrong = Coefficients(zeros.deltas, zeros.parameters, torch.ones_like(zeros.values))
    with pytest.raises(UnknownParameter, match="delta 2 does not change"):
        compose(three, wrong)
    more = Coefficients(zeros.deltas, (*zeros.parameters, "3.weight"), torch.zeros(3, 5, 1))
    with pytest.raises(UnknownParameter, match=r"3\.weight"):
        compose(three, more)


def test_coefficients_that_do_not_fit(three: list[Delta]) -> None:
    with pytest.raises(ConfigError, match="at least one delta"):
        compose([], 1.0)
    with pytest.raises(ConfigError, match="2 coefficients were given for 3 deltas"):
        compose(three, [1.0, 2.0])
    with pytest.raises(ShapeMismatch, match=r"\(3, 4\)"):
        compose(three, torch.ones(4, 3))
    with pytest.raises(NonFinite):
        compose(three, float("nan"))
    everything = [dict.fromkeys(d, 1.0) for d in three]
    with pytest.raises(UnknownParameter, match=r"delta 2 .*0\.bias"):
        compose(three, [everything[0], everything[1], {"0.bias": 1.0, "0.weight": 1.0}])
    with pytest.raises(ConfigError, match="delta 2: 1 of its 1"):
        compose(three, [everything[0], everything[1], {}])


def test_one_delta_may_stand_alone(three: list[Delta]) -> None:
    assert compose(three[0], 0.5) == compose([three[0]], [0.5])


def test_arrays_of_numbers_are_read_as_tensors_are(three: list[Delta]) -> None:
    table = np.arange(3.0 * len(blocks(three))).reshape(3, -1)
    assert compose(three, table) == compose(three, torch.from_numpy(table))  # type: ignore[arg-type]
    assert compose(three, np.array(0.5)) == compose(three, np.float32(0.5)) == compose(three, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ("1", "the coefficients are '1'"),
        (None, "the coefficients are None"),
        ({"0.weight": 1.0}, "for each delta a mapping"),
        (["1", 1, 1], "the coefficient of delta 0 is '1'; expected a number"),
        ([1, None, 1], "the coefficient of delta 1 is None"),
        (torch.zeros(3, 2, 2), "the coefficient of delta 0 is"),
        (torch.ones(3, requires_grad=True), "the coefficient of delta 0 is a tensor that requires a gradient"),
        (torch.ones(3, 4, requires_grad=True), "the table of coefficients is a tensor that requires a gradient"),
    ],
)
def test_what_is_no_coefficient(three: list[Delta], coefficients: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(three, coefficients)  # type: ignore[arg-type]


def test_a_number_of_a_block_is_named(three: list[Delta]) -> None:
    with pytest.raises(ConfigError, match=r"the coefficient of delta 0 for '0.weight' is 'x'"):
        compose(three[2], [{"0.weight": "x"}])  # type: ignore[dict-item]


@pytest.mark.parametrize("wrong", ["a.delta", None, ["a.delta"], []])
def test_what_is_no_delta(wrong: object) -> None:
    with pytest.raises(ConfigError, match="delta"):
        compose(wrong, 1.0)  # type: ignore[arg-type]
