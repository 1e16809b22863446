"""A new vector in factored form: exact sums and multiples, new beside displacements, and its place in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dtheta.compose.bank import Bank
from dtheta.compose.compose import compose
from dtheta.compress.compeft import compress
from dtheta.core.apply import applied
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New
from dtheta.core.combination import Scaled, Sum, add
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.kinds import parse
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.products import inner
from dtheta.core.recompress import recompress
from dtheta.core.seeds import generator
from dtheta.errors import FormatError, ShapeMismatch, UnsupportedLayer


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "new-low-rank", index))


def table(index: int = 0, rank: int = 2, core: bool = False) -> NewLowRank:
    middle = normal(rank, index=index + 50) if core else None
    return NewLowRank(normal(6, rank, index=index), normal(rank, 4, index=index + 20), middle)


def wide(change: Change) -> torch.Tensor:
    return change.map(lambda t: t.double()).dense()


def test_sums_stack_factors_and_have_no_cross_terms() -> None:
    a, b = table(0), table(1, rank=3, core=True)
    for total in (a + b, b + a, a - b, a + (0.3 * b)):
        assert type(total) is NewLowRank and total.rank == 5
    assert torch.allclose(wide(a - b), wide(a) - wide(b), atol=1e-12)
    crossed = (a.left + table(1).left) @ (a.right + table(1).right)
    assert not torch.allclose((a + table(1)).dense(), crossed, atol=0.1)
    assert wide(a - a).abs().max() < 1e-14


def test_multiples_are_exact_and_stay_of_the_kind() -> None:
    a = table(core=True)
    for factor in (0.5, -1.0, 0.3, 0.0):
        scaled = factor * a
        assert type(scaled) is NewLowRank and torch.allclose(wide(scaled), factor * wide(a), atol=1e-12, rtol=0)
    assert (0.5 * a).dtype == torch.float32 and 1.0 * a is a and torch.equal((0.5 * (2.0 * a)).dense(), a.dense())


def test_a_dense_new_vector_makes_the_sum_dense() -> None:
    a, b = table(), New(normal(6, 4, index=9))
    for total in (a + b, b + a):
        assert type(total) is New and torch.allclose(total.dense(), a.dense() + b.dense(), atol=1e-6)


def test_inner_norm_and_cosine_are_those_of_the_entries() -> None:
    a, b, c = table(0, core=True), table(1), New(normal(6, 4, index=9))
    for x in (a, b, c):
        for y in (a, b, c):
            assert inner(x, y) == pytest.approx(float((wide(x) * wide(y)).sum()), rel=1e-6)
    assert a.norm() == pytest.approx(float(wide(a).norm()), rel=1e-6)
    assert Delta({"p": a}).cosine(Delta({"p": -2.0 * a})) == pytest.approx(-1.0)


def test_it_is_no_displacement_of_a_parameter() -> None:
    a, moved = table(), LowRank(normal(6, 1), normal(1, 4))
    assert a.is_new and New(normal(2)).is_new and not moved.is_new
    for other in (moved, Dense(normal(6, 4)), Scaled(2.0, moved)):
        with pytest.raises(UnsupportedLayer):
            add([a, other])
        with pytest.raises(UnsupportedLayer):
            inner(other, a)
    with pytest.raises(UnsupportedLayer):
        Scaled(2.0, a)
    with pytest.raises(UnsupportedLayer):
        Sum((a, a))
    with pytest.raises(UnsupportedLayer):
        Block(a, 0, 0, (8, 4))
    with pytest.raises(ShapeMismatch):
        add([a, NewLowRank(normal(5, 2), normal(2, 4))])


def test_in_a_delta(tiny_mlp: torch.nn.Module) -> None:
    delta = Delta({"table": table(), "w": Dense(normal(2)), "p": New(normal(3))})
    assert list(delta.new) == ["table", "p"] and list(delta.restrict("tab*").new) == ["table"]
    with pytest.raises(UnsupportedLayer, match="attach it instead"), applied(tiny_mlp, delta.restrict("table")):
        pass
    with pytest.raises(UnsupportedLayer, match="the base does not have"):
        Bank(tiny_mlp).add("a", delta.restrict("table"))


def test_a_bank_refuses_it_by_the_header_too(tiny_mlp: torch.nn.Module, tmp_path: Path) -> None:
    path = Delta({"table": table()}).save(tmp_path / "a.delta")
    with pytest.raises(UnsupportedLayer, match="the base does not have"):
        Bank(tiny_mlp).add("a", path)


@pytest.mark.parametrize("core", [False, True])
def test_a_file_holds_it_bit_for_bit(core: bool, tmp_path: Path) -> None:
    delta = Delta({"table": table(core=core), "half": 0.3 * table()})
    loaded = load(delta.save(tmp_path / "a.delta"))
    assert loaded == delta and all(type(change) is NewLowRank for change in loaded.changes.values())
    assert torch.equal(loaded["table"].dense(), delta["table"].dense())


@pytest.mark.parametrize(
    ("field", "value"), [("rank", -1), ("rank", 2.0), ("core", 1), ("shape", [6]), ("shape", "6"), ("more", 1)]
)
def test_hostile_descriptions(field: str, value: object) -> None:
    meta = json.loads(json.dumps(table().meta())) | {field: value}
    if field == "shape" and value == [6]:  # a vector is a matrix of one column: the tensors will not fit
        assert parse(meta).parts()["right"][1] == (2, 1)
        return
    with pytest.raises(FormatError):
        parse(meta)


def test_it_is_no_term_in_a_file() -> None:
    inner_meta = table().meta()
    for outer in ({"kind": "scaled", "factor": 2.0, "term": inner_meta}, {"kind": "sum", "terms": [inner_meta] * 2}):
        with pytest.raises(FormatError, match="a new vector is no term"):
            parse({**outer, "shape": [6, 4]})


def test_recompress_keeps_it_new() -> None:
    a = table(0) + table(1)
    found = recompress(Delta({"t": a}), 2)["t"]
    U, S, Vh = torch.linalg.svd(a.dense())
    assert type(found) is NewLowRank and found.rank == 2
    assert torch.allclose(found.dense(), (U[:, :2] * S[:2]) @ Vh[:2], atol=1e-5)


@pytest.mark.parametrize(("of", "kind"), [("factors", NewLowRank), ("product", New), ("balanced", NewLowRank)])
def test_compress_takes_it_if_asked_for(of: str, kind: type) -> None:
    halved = NewLowRank(table().left, table().right, torch.full((2,), 0.5))
    delta = Delta({"t": halved, "w": LowRank(normal(5, 1), normal(1, 7))})
    with pytest.raises(UnsupportedLayer, match="new=True"):
        compress(delta, 0.5, of=of)  # type: ignore[arg-type]
    packed = compress(delta, 0.5, of=of, new=True)["t"]  # type: ignore[arg-type]
    assert type(packed) is kind
    if isinstance(packed, NewLowRank):
        assert packed.left.abs().unique().numel() == 2 and packed.right.abs().unique().numel() == 2
    else:
        assert packed.dense().abs().unique().numel() == 2
    with pytest.raises(UnsupportedLayer, match="its factors mean nothing one by one"):
        compress(Delta({"t": table(0) - table(1)}), 0.5, of="factors", new=True)


def test_compose_takes_one_coefficient_a_delta() -> None:
    a, b = (Delta({"t": table(i)}) for i in range(2))
    found = compose([a, b], [0.25, -0.5])["t"]
    assert type(found) is NewLowRank
    assert torch.allclose(wide(found), 0.25 * wide(a["t"]) - 0.5 * wide(b["t"]), atol=1e-12)


def test_moving_it_keeps_its_kind() -> None:
    assert type(table().map(lambda t: t.double())) is NewLowRank


def test_compress_refuses_a_table_that_would_vanish() -> None:
    """A table whose right factor is far smaller loses all of it to one threshold, as factors of a change do."""
    young = Delta({"t": NewLowRank(normal(20, 2), 1e-6 * normal(2, 9))})
    with pytest.raises(UnsupportedLayer, match="every product becomes zero"):
        compress(young, 0.3, of="factors", new=True)
    assert compress(young, 0.5, of="balanced", new=True)["t"].norm() > 0
