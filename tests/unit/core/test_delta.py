"""Deltas: vectors with a base and a history."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from dtheta.core.block import Block
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta, total
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.provenance import Provenance
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    FormatError,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "delta", index))


@pytest.fixture
def a(tiny_mlp: nn.Module) -> Delta:
    changes = {"0.weight": LowRank(normal(16, 2), normal(2, 12)), "2.bias": Dense(normal(8))}
    made = Provenance("train", {"name": "LoRA", "rank": 2}, seed=1, task={"labels": ["x", "y"]})
    return Delta(changes, fingerprint(tiny_mlp).restrict(changes), made)


@pytest.fixture
def b(tiny_mlp: nn.Module) -> Delta:
    changes = {"0.weight": Dense(normal(16, 12, index=1)), "2.weight": Dense(normal(8, 16))}
    return Delta(changes, fingerprint(tiny_mlp).restrict(changes), Provenance("train", seed=2))


def test_it_is_a_mapping_from_names(a: Delta) -> None:
    assert list(a) == ["0.weight", "2.bias"] and len(a) == 2 and "2.bias" in a and "2.weight" not in a
    with pytest.raises(UnknownParameter, match=r"did you mean '0\.weight'"):
        a["0.wieght"]
    assert a.numel == 16 * 12 + 8 and a.nbytes == 4 * (32 + 24 + 8)


def test_sum_takes_all_names_in_order_and_joins_the_base(a: Delta, b: Delta) -> None:
    c = a + b
    assert list(c) == ["0.weight", "2.bias", "2.weight"] and set(c.base.digests) == set(c)
    assert c.base.root == a.base.root
    assert torch.allclose(c["0.weight"].dense(), a["0.weight"].dense() + b["0.weight"].dense(), atol=1e-6)
    assert (a - a).norm() < 1e-12


def test_sums_over_different_bases_are_refused(a: Delta, b: Delta) -> None:
    other = Delta(b.changes, Fingerprint({**b.base.digests, "0.weight": "0" * 64}))
    for combine in (lambda: a + other, lambda: a.inner(other), lambda: total([a, a, other])):
        with pytest.raises(BaseMismatch, match=r"1 tensors differ in content, first: 0\.weight"):
            combine()


def test_roots_may_differ_where_touched_tensors_agree(a: Delta, b: Delta) -> None:
    other = Delta(b.changes, Fingerprint(b.base.digests, "1" * 64))
    assert (a + other).base.root is None


def test_errors_of_a_sum_name_the_parameter() -> None:
    with pytest.raises(ShapeMismatch, match=r"^w: "):
        Delta({"w": Dense(normal(2))}) + Delta({"w": Dense(normal(3))})
    with pytest.raises(UnsupportedLayer, match=r"^w: .*new vector"):
        Delta({"w": Dense(normal(2))}) + Delta({"w": New(normal(2))})
    with pytest.raises(ShapeMismatch, match=r"^w: "):
        Delta({"w": Dense(normal(2))}).inner(Delta({"w": Dense(normal(3))}))
    with pytest.raises(ConfigError, match="at least one"):
        total([])


def test_multiples(a: Delta) -> None:
    for half in (0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert (half * a).norm() == pytest.approx(a.norm() / 2) == (a * half).norm()
    assert (a / 2).norm() == pytest.approx(a.norm() / 2)
    assert (3 * a / 3) == a and (-1 * (-a)) == a and a * 1 is a
    for factor in (math.nan, math.inf, np.float32("inf")):
        with pytest.raises(UnsupportedLayer, match="finite"):
            factor * a
    for factor in (10**400, -(10**400)):
        with pytest.raises(UnsupportedLayer, match="finite"):
            factor * a
    for divisor in (0, 0.0, torch.tensor(0.0), math.nan, math.inf, 1e-320, 10**400):
        with pytest.raises(UnsupportedLayer, match="cannot divide a delta by"):
            a / divisor
    for other in (a, "2", None, torch.ones(2), 1j, torch.tensor(1j)):
        with pytest.raises(TypeError):
            a * other  # type: ignore[operator]
        with pytest.raises(TypeError):
            a / other  # type: ignore[operator]
    with pytest.raises(TypeError):
        a + 1  # type: ignore[operator]


def test_norm_inner_cosine_over_all_parameters(a: Delta, b: Delta) -> None:
    x = torch.cat([a["0.weight"].dense().flatten(), a["2.bias"].dense()]).double()
    assert a.norm() == pytest.approx(float(x.norm()), rel=1e-6)
    assert a.inner(b) == pytest.approx(float((a["0.weight"].dense() * b["0.weight"].dense()).sum()), rel=1e-5)
    assert a.cosine(a) == pytest.approx(1.0) and a.cosine(-2 * a) == pytest.approx(-1.0)
    assert math.isnan(a.cosine(0.0 * a)) and Delta({}).norm() == 0.0
    assert (1e-30 * a).cosine(1e-30 * a) == pytest.approx(1.0)
    assert (1e-200 * a).cosine(a) == pytest.approx(1.0)


def test_equality_is_that_of_content_and_base(a: Delta) -> None:
    same = Delta({name: a[name].map(torch.clone) for name in a}, a.base, Provenance("made another way"))
    assert same == a and hash(same) == hash(a) and same.digest == a.digest
    assert Delta(dict(reversed(a.changes.items())), a.base) == a  # the order of names is no content
    assert a != 2 * a and a != "a" and Delta(a.changes) != a
    renamed = {"1.weight" if n == "0.weight" else n: c for n, c in a.changes.items()}
    assert Delta(renamed, a.base) != a
    assert Delta({"w": Dense(normal(4))}) != Delta({"w": Dense(normal(4).reshape(2, 2))})
    assert Delta({"w": Dense(normal(4))}) != Delta({"w": New(normal(4))})


def test_digest_is_what_the_format_says() -> None:
    """Files and parents refer to a delta by its digest, so any program must be able to take it; see docs/format.md."""

    def tensor(values: torch.Tensor) -> str:
        head = json.dumps(["float32", list(values.shape)]).encode()
        return hashlib.sha256(head + values.numpy().tobytes()).hexdigest()

    left, right, b = torch.ones(2, 1), torch.ones(1, 3), torch.zeros(2)
    low = {"kind": "low-rank", "shape": [2, 3], "rank": 1, "core": False}
    half = {"kind": "scaled", "shape": [2], "factor": 0.5, "term": {"kind": "dense", "shape": [2]}}
    records = [
        {"name": "b", "base": "0" * 64, "meta": half, "tensors": {"term.values": tensor(b)}},
        {"name": "w", "base": None, "meta": low, "tensors": {"left": tensor(left), "right": tensor(right)}},
    ]
    lines = [json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n" for record in records]
    delta = Delta({"w": LowRank(left, right), "b": 0.5 * Dense(b)}, Fingerprint({"b": "0" * 64}))
    assert delta.digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_uses_that_are_no_table_are_not_handed_on(a: Delta) -> None:
    """A file may hold anything there."""
    edited = Delta(a.changes, a.base, Provenance("train", settings={"uses": "x"}))
    assert "uses" not in (edited + a).provenance.settings and "uses" not in (2 * edited).provenance.settings


def test_provenance_of_what_is_derived(a: Delta, b: Delta) -> None:
    scaled = 0.5 * a
    assert scaled.provenance.operation == "scale" and scaled.provenance.settings == {"coefficients": [0.5]}
    assert scaled.provenance.method == {"name": "LoRA", "rank": 2} and scaled.provenance.seed == 1
    assert scaled.provenance.task == {"labels": ["x", "y"]} and scaled.provenance.parents == [a.digest]
    both = a + b
    assert both.provenance.parents == [a.digest, b.digest] and both.provenance.method == {}
    assert both.provenance.seed is None and both.provenance.task == {}
    assert (a + a).provenance.seed == 1


def test_provenance_goes_through_a_table_and_back() -> None:
    made = Provenance("train", {"name": "X"}, ("0" * 64,), {"select": "*"}, 3, {"labels": ["a"]})
    again = Provenance.from_dict(made.to_dict())
    assert again.to_dict() == made.to_dict() and set(made.versions) == {
        "python",
        "dtheta",
        "torch",
        "numpy",
        "safetensors",
    }
    made.versions["torch"] = "changed"  # type: ignore[index]
    assert Provenance("other").versions["torch"] != "changed"
    for bad, message in [
        ({**made.to_dict(), "opertion": ""}, "did you mean 'operation'"),
        ({k: v for k, v in made.to_dict().items() if k != "seed"}, "no field 'seed'"),
        ({**made.to_dict(), "seed": "3"}, "'seed' is a str"),
        ({**made.to_dict(), "seed": True}, "'seed' is a bool"),
        ({**made.to_dict(), "parents": [1]}, "digests"),
    ]:
        with pytest.raises(FormatError, match=message):
            Provenance.from_dict(bad)
    assert made.with_task(data="bbc").task == {"labels": ["a"], "data": "bbc"}


def test_restrict_and_rename(a: Delta) -> None:
    part = a.restrict("2.* | none")
    assert list(part) == ["2.bias"] and list(part.base.digests) == ["2.bias"] and part.base.root == a.base.root
    assert list(a.restrict("*|!2.*")) == ["0.weight"] and list(a.restrict("*.weight|!0.*|0.*")) == ["0.weight"]
    with pytest.raises(UnknownParameter, match=r"no change matches 'x\*'"):
        a.restrict("x*")
    with pytest.raises(UnknownParameter, match="no change matches"):
        a.restrict("0.*|!0.*")
    with pytest.raises(UnknownParameter, match=r"matches '!2\.\*'; '\*\|!2\.\*' is all but those"):
        a.restrict("!2.*")
    inner = a.rename(lambda name: f"encoder.{name}")
    assert list(inner) == ["encoder.0.weight", "encoder.2.bias"] and inner.base.root is None
    assert inner.base.digests["encoder.2.bias"] == a.base.digests["2.bias"]
    with pytest.raises(ShapeMismatch, match="same name"):
        a.rename(lambda name: "w")


def test_map_and_to_keep_base_and_history(a: Delta) -> None:
    moved = a.to("cpu")
    assert moved == a and moved.base is a.base and moved.provenance is a.provenance


def test_new_vectors() -> None:
    delta = Delta({"prompt": New(normal(2, 3)), "w": Dense(normal(2))})
    assert list(delta.new) == ["prompt"]


def test_text_form_of_every_kind_also_unbound() -> None:
    shift = Spectral(normal(2), (3, 3))
    changes = {
        "low": LowRank(normal(3, 1), normal(1, 3)),
        "sum": 0.5 * Dense(normal(3, 3)) + Rows(torch.tensor([1]), normal(1, 3), (3, 3)),
        "spectral": shift,
        "block": Block(shift, 0, 3, (9, 3)),
        "new": New(normal(2)),
    }
    text = str(Delta(changes))
    assert "5 parameters" in text and all(name in text for name in changes)


def test_copies_and_pickles_are_equal(a: Delta) -> None:
    assert copy.deepcopy(a) == a and pickle.loads(pickle.dumps(a)) == a


def test_changes_given_are_not_aliased(a: Delta) -> None:
    given = dict(a.changes)
    delta = Delta(given, a.base)
    given.clear()
    assert len(delta) == 2


def test_a_delta_that_is_not_bound_can_be_printed() -> None:
    shifts = Delta({"w": Spectral(torch.ones(3), (4, 3))})
    both = shifts + Delta({"w": Dense(torch.ones(4, 3))})
    assert "unbound" in str(both) and "unbound" not in str(shifts)


def test_a_factor_that_wants_a_gradient_is_refused(a: Delta) -> None:
    factor = torch.tensor(0.5, requires_grad=True)
    for made in (lambda: factor * a, lambda: a * factor, lambda: a / factor):
        with pytest.raises(ConfigError, match=r"requires a gradient, .*dt\.learn_coefficients"):
            made()
    with torch.no_grad():
        assert factor * a == a / (1 / factor) == 0.5 * a
    assert factor.detach() * a == 0.5 * a


def test_pythons_sum(a: Delta) -> None:
    assert sum([a, 0.5 * a]) == a + 0.5 * a
    with pytest.raises(TypeError):
        1 + a


@pytest.mark.parametrize("other", [1, "a.delta", None])
def test_an_inner_product_takes_a_delta(other: object) -> None:
    delta = Delta({"w": Dense(torch.ones(2))})
    for product in (delta.inner, delta.cosine):
        with pytest.raises(ConfigError, match="expected another delta"):
            product(other)  # type: ignore[arg-type]
