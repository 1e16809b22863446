"""Extraction: exact differences, the cheapest form, truncation with its price, and names that must agree."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize

from dtheta.core.apply import applied, merge
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.extract import extract
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.tensors import base_tensors
from dtheta.errors import (
    ConfigError,
    DthetaWarning,
    NonFinite,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "extract", index))


@pytest.fixture
def tuned(tiny_mlp: nn.Module) -> nn.Module:
    found = copy.deepcopy(tiny_mlp)
    with torch.no_grad():
        found[0].weight += 0.01 * normal(16, 12)
        found[2].bias += 0.01 * normal(8)
    return found


def test_only_what_changed_and_exactly(tiny_mlp: nn.Module, tuned: nn.Module) -> None:
    delta = extract(tiny_mlp, tuned)
    assert list(delta) == ["0.weight", "2.bias"]
    for name in delta:
        assert isinstance(delta[name], Dense)
        exact = base_tensors(tuned)[name].double() - base_tensors(tiny_mlp)[name].double()
        assert torch.equal(delta[name].dense(), exact.float())
    assert delta.base == fingerprint(tiny_mlp).restrict(delta)
    assert delta.provenance.operation == "extract" and delta.provenance.settings == {}
    assert len(extract(tiny_mlp, copy.deepcopy(tiny_mlp))) == 0


def test_float64_differences_restore_every_bit_also_where_signs_flip() -> None:
    base = {"w": torch.tensor([1e-3, 1.0, -3e-5, 0.0, 5.0])}
    tuned = {"w": torch.tensor([-1.1e-4, 1e-9, 4e-5, 1e-30, 0.0])}
    delta = extract(base, tuned, dtype=torch.float64)
    module = nn.Module()
    module.w = nn.Parameter(base["w"].clone())
    with applied(module, delta):
        assert torch.equal(module.w, tuned["w"])
    with applied(module, extract(base, tuned)):
        error = (module.w - tuned["w"]).abs()
        assert bool((error <= 2.0**-24 * (tuned["w"] - base["w"]).abs() * 1.01).all())


def test_a_quarter_of_the_rows_is_stored_by_rows(tiny_gpt2: nn.Module) -> None:
    tuned = copy.deepcopy(tiny_gpt2)
    with torch.no_grad():
        tuned.transformer.wte.weight[[5, 17, 63]] += 1
    delta = extract(tiny_gpt2, tuned)
    assert list(delta) == ["transformer.wte.weight"]
    change = delta["transformer.wte.weight"]
    assert isinstance(change, Rows) and change.index.tolist() == [5, 17, 63]
    with torch.no_grad():
        tuned.transformer.wte.weight[:17] += 1
    assert isinstance(extract(tiny_gpt2, tuned)["transformer.wte.weight"], Dense)
    one = {"w": torch.zeros(8)}
    assert isinstance(extract(one, {"w": torch.eye(8)[0]})["w"], Dense)  # vectors have no rows


def test_rank_truncates_as_well_as_any_rank_can() -> None:
    base, step = {"w": normal(20, 12), "b": normal(5), "s": normal(3, 3)}, normal(20, 12, index=1)
    tuned = {"w": base["w"] + step, "b": base["b"] + 1, "s": base["s"] + 1}
    delta = extract(base, tuned, rank=3)
    change = delta["w"]
    assert isinstance(change, LowRank) and change.rank == 3
    assert isinstance(delta["b"], Dense) and isinstance(delta["s"], Dense)  # factors would not be smaller
    exact = tuned["w"].double() - base["w"].double()
    S = torch.linalg.svdvals(exact)
    lost = float((change.dense().double() - exact).norm() ** 2 / exact.norm() ** 2)
    assert lost == pytest.approx(float(S[3:].square().sum() / S.square().sum()), rel=1e-4)
    assert delta.provenance.settings["discarded"] == {"w": pytest.approx(lost, rel=1e-3)}
    assert delta.provenance.settings["rank"] == 3


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy_takes_the_smallest_rank_that_holds_it(energy: float) -> None:
    U, V = torch.linalg.qr(normal(40, 30)).Q, torch.linalg.qr(normal(30, 30)).Q
    S = 2.0 ** -torch.arange(30.0)
    delta = extract({"w": torch.zeros(40, 30)}, {"w": (U * S) @ V.T}, rank=energy)
    shares = S.square().cumsum(0) / S.square().sum()
    expected = int((shares < energy).sum()) + 1
    assert delta["w"].rank == expected
    assert delta.provenance.settings["discarded"]["w"] == pytest.approx(1 - float(shares[expected - 1]), rel=1e-3)


def test_a_low_rank_delta_is_found_again_at_no_cost(tiny_mlp: nn.Module) -> None:
    made = Delta({"0.weight": LowRank(normal(16, 2), normal(2, 12))}, fingerprint(tiny_mlp))
    found = extract(tiny_mlp, merge(tiny_mlp, made), rank=0.9999)
    assert found["0.weight"].rank == 2
    assert torch.allclose(found["0.weight"].dense(), made["0.weight"].dense(), atol=1e-5)
    assert found.provenance.settings["discarded"]["0.weight"] < 1e-10


def test_convolutions_are_truncated_as_matrices() -> None:
    step = (normal(8, 1) @ normal(1, 36)).reshape(8, 4, 3, 3)
    delta = extract({"w": torch.zeros(8, 4, 3, 3)}, {"w": step}, rank=1)
    assert delta["w"].shape == (8, 4, 3, 3) and torch.allclose(delta["w"].dense(), step, atol=1e-5)


def test_select_compares_a_part(tiny_mlp: nn.Module, tuned: nn.Module) -> None:
    part = extract(tiny_mlp, tuned, select="*.bias | none")
    assert list(part) == ["2.bias"] and part.base.root is None
    assert part.provenance.settings == {"select": "*.bias | none"}
    with pytest.raises(UnknownParameter, match=r"matches '\*\.wieght'"):
        extract(tiny_mlp, tuned, select="*.wieght")


def test_names_must_agree_unless_asked(tiny_mlp: nn.Module) -> None:
    base = dict(base_tensors(tiny_mlp))
    tuned = {**{n: t.detach() + 1 for n, t in base.items() if n != "0.bias"}, "head.weight": normal(2, 2)}
    with pytest.raises(UnknownParameter, match=r"1 tensors of the base are not.*0\.bias.*head\.weight.*new='keep'"):
        extract(base, tuned)
    with pytest.raises(UnknownParameter, match=r"0\.bias"):
        extract(base, tuned, new="keep")
    loose = extract(base, tuned, strict=False)
    assert "head.weight" not in loose and loose.provenance.settings["left_out"] == ["0.bias", "head.weight"]
    assert loose.base.root is None
    kept = extract(base, {**tuned, "0.bias": base["0.bias"]}, new="keep")
    assert isinstance(kept["head.weight"], New) and torch.equal(kept["head.weight"].dense(), tuned["head.weight"])
    assert "head.weight" not in kept.base.digests and kept.base.root == fingerprint(base).root


def test_shapes_must_agree_and_resized_embeddings_are_explained() -> None:
    base = {"wte": normal(10, 4), "w": normal(3, 3)}
    with pytest.raises(ShapeMismatch, match=r"^wte: .*\(10, 4\).*\(12, 4\).*resize_token_embeddings"):
        extract(base, {**base, "wte": normal(12, 4)})
    with pytest.raises(ShapeMismatch, match=r"^w: ") as error:
        extract(base, {**base, "w": normal(3, 4)})
    assert "resize" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_numbers_are_named(value: float) -> None:
    base = {"a": normal(3), "b": normal(3), "mask": torch.tensor([0.0, -math.inf, math.nan])}
    broken = {**base, "b": torch.tensor([1.0, value, 2.0])}
    assert list(extract(base, {**base, "a": base["a"] + 1})) == ["a"]  # what is equal bit for bit may be anything
    with pytest.raises(NonFinite, match=r"^b: the tuned"):
        extract(base, broken)
    with pytest.raises(NonFinite, match=r"^b: the base"):
        extract(broken, base)
    with pytest.raises(NonFinite, match=r"^b: the difference"):
        extract(*({"b": torch.tensor([x], dtype=torch.float64)} for x in (-1.5e308, 1.5e308)))
    with pytest.raises(NonFinite, match="head"):
        extract({}, {"head": torch.tensor([value])}, new="keep")


def test_other_dtypes_are_explained_and_quantized_ones_refused() -> None:
    base = {"w": normal(4, 4), "v": normal(4)}
    with pytest.warns(DthetaWarning, match=r"2 tensors .*first: w, torch\.float32 .*torch\.bfloat16"):
        delta = extract(base, {n: t.bfloat16() for n, t in base.items()})
    assert torch.equal(base["w"] + delta["w"].dense(), base["w"].bfloat16().float())
    with pytest.raises(UnsupportedLayer, match=r"^w: .*quantized"):
        extract(base, {**base, "w": base["w"].to(torch.int8)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract({"n": torch.tensor(3)}, {"n": torch.tensor(7)})["n"].dense().item() == 4.0


def test_half_precision_checkpoints_come_back_bit_for_bit() -> None:
    base = {"w": normal(50, 40).bfloat16()}
    tuned = {"w": (base["w"].float() + 0.01 * normal(50, 40, index=1)).bfloat16()}
    module = nn.Module()
    module.w = nn.Parameter(base["w"].clone())
    with applied(module, extract(base, tuned)):
        assert torch.equal(module.w, tuned["w"])


def test_ties_are_understood_on_both_sides(tiny_gpt2: nn.Module) -> None:
    tuned = copy.deepcopy(tiny_gpt2)
    with torch.no_grad():
        tuned.lm_head.weight[3] += 1
    embed, head = "transformer.wte.weight", "lm_head.weight"
    untied = {n: t.detach().clone() for n, t in base_tensors(tuned).items()}
    only_head = {head if n == embed else n: t for n, t in untied.items()}
    for source in (tuned, untied, only_head, {**untied, head: untied[embed].clone()}):
        assert list(extract(tiny_gpt2, source)) == [embed]
    with pytest.raises(UnsupportedLayer, match="tied in the base"):
        extract(tiny_gpt2, {**untied, head: untied[embed] + 1})
    separate = {n: t.detach().clone() for n, t in base_tensors(tiny_gpt2).items()}
    separate[head] = separate[embed].clone()
    assert set(extract(separate, tuned)) == {embed, head}


def test_an_attached_adapter_must_not_be_lost(tiny_mlp: nn.Module, tuned: nn.Module) -> None:
    class Term(nn.Module):
        is_dtheta_term = True

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight

    expected = extract(tiny_mlp, tuned)
    parametrize.register_parametrization(tiny_mlp[0], "weight", Term(), unsafe=True)
    assert extract(tiny_mlp, tuned) == expected  # the base's own tensors are what counts
    with pytest.raises(ConfigError, match=r"attached to '0'.*adapter\.delta\(\)"):
        extract(tuned, tiny_mlp)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": 1.0}, "rank"),
        ({"rank": "4"}, "rank"),
        ({"new": "kep"}, "'refuse' or 'keep'"),
        ({"dtype": torch.float16}, "float32 or torch.float64"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        extract({}, {}, **arguments)
    with pytest.raises(ConfigError, match="base is a list"):
        extract([], {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.tensor([2**60 + 1, 5]), torch.tensor([2**60, 5])),
        (torch.tensor([-(2**62)]), torch.tensor([-(2**62) + 2**53])),
        (torch.tensor([True, False]), torch.tensor([False, False])),
        (torch.tensor([3], dtype=torch.uint8), torch.tensor([250], dtype=torch.uint8)),
        (torch.tensor([3], dtype=torch.uint64), torch.tensor([2**50], dtype=torch.uint64)),
        (torch.zeros(2).double(), torch.tensor([1e-50, 0.0], dtype=torch.float64)),
        (torch.zeros(2).double(), torch.tensor([1e-50, 1.0], dtype=torch.float64)),
        (torch.tensor([-3e38, 1.0]), torch.tensor([3e38, 1.0])),
        (torch.zeros(2), torch.tensor([1e-45, 0.0])),
    ],
    ids=str,
)
def test_no_number_that_differs_is_lost(before: torch.Tensor, after: torch.Tensor) -> None:
    base, tuned = nn.Module(), {"t": after}
    base.register_buffer("t", before.clone())
    delta = extract(base, tuned)
    assert len(delta) == 1
    with applied(base, delta):
        assert torch.equal(base.t, after) and base.t.dtype == after.dtype
    assert torch.equal(base.t, before)
    assert torch.equal(merge(base, delta).t, after)


def test_integers_that_no_change_holds_are_refused_by_name() -> None:
    for before, after in (([-(2**62)], [2**62]), ([2**62], [-(2**62)]), ([0], [2**53 + 1]), ([2**63 - 1], [-(2**63)])):
        with pytest.raises(UnsupportedLayer, match=r"^seed: its integers differ by more than 2\*\*53.*select"):
            extract({"seed": torch.tensor(before)}, {"seed": torch.tensor(after)})
    large = torch.tensor([2**63 + 1], dtype=torch.uint64)
    with pytest.raises(UnsupportedLayer, match=r"^seed: .*2\*\*63"):
        extract({"seed": large}, {"seed": torch.zeros(1, dtype=torch.uint64)})
    with pytest.raises(UnsupportedLayer, match="seed"):
        extract({}, {"seed": torch.tensor([2**60 + 1])}, new="keep")
    assert extract({}, {"seed": torch.tensor([2**52 + 1])}, new="keep")["seed"].dense().tolist() == [2.0**52 + 1]


def test_a_rank_is_for_floats() -> None:
    table = torch.arange(400).reshape(20, 20)
    assert isinstance(extract({"t": table}, {"t": table * 3 + 1}, rank=1)["t"], Dense)


def test_other_bits_of_the_same_numbers_are_no_change() -> None:
    assert len(extract({"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([-0.0, 1.0])})) == 0


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_a_tensor_that_cannot_be_read_is_in_nobodys_way_where_it_is_the_same(form: str) -> None:
    graph = getattr(torch.diag(torch.tensor([1.0, 2.0, 3.0])), form)()
    base = {"w": normal(3, 3), "graph": graph}
    delta = extract(base, {"w": normal(3, 3, index=1), "graph": graph.clone()})
    assert list(delta) == ["w"] and delta.base.root is None and set(delta.base.digests) == {"w"}
    for other in (2 * graph, graph.to_dense(), torch.diag(torch.tensor([1.0, 2.0])).to_sparse()):
        with pytest.raises(UnsupportedLayer, match=r"^graph: cannot be compared"):
            extract(base, {**base, "graph": other})


@pytest.mark.parametrize("value", [1, "x", None, [1.0], np.ones(2)])
def test_what_is_no_tensor_is_refused(value: object) -> None:
    for base, tuned in (({"a": value}, {"a": torch.ones(2)}), ({"a": torch.ones(2)}, {"a": value})):
        with pytest.raises(ConfigError, match=r"^a: the (base|tuned) holds a \w+ there; expected a tensor"):
            extract(base, tuned)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="base has a name 3"):
        extract({3: torch.ones(2)}, {})  # type: ignore[dict-item]


def test_checkpoints_are_read_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"layer.{i}.weight": normal(50, 40, index=i) for i in range(6)}
    save_file(tensors, tmp_path / "base.safetensors")
    save_file({n: t + (n == "layer.3.weight") for n, t in tensors.items()}, tmp_path / "tuned.safetensors")
    read: list[str] = []
    held = _watched(monkeypatch, read)
    delta = extract(tmp_path / "base.safetensors", str(tmp_path / "tuned.safetensors"))
    assert list(delta) == ["layer.3.weight"] and sorted(read) == sorted(list(tensors) * 2)
    assert max(held) <= 4  # the pair that is compared and the pair before it
    assert delta.base.root == fingerprint(tensors).root


def _watched(monkeypatch: pytest.MonkeyPatch, read: list[str]) -> list[int]:
    """Count how many tensors that were read from files are alive at each read."""
    import weakref

    from dtheta.core.tensorfile import TensorFile

    plain: Callable[..., torch.Tensor] = TensorFile.read
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    held = []

    def watching(self: TensorFile, name: str) -> torch.Tensor:
        tensor = plain(self, name)
        read.append(name)
        held.append(len(list(alive)) + 1)
        alive.add(tensor)
        return tensor

    monkeypatch.setattr(TensorFile, "read", watching)
    return held


def test_base_may_be_a_module_and_tuned_a_folder(tiny_bert: nn.Module, tmp_path: Path) -> None:
    tuned = copy.deepcopy(tiny_bert)
    with torch.no_grad():
        tuned.encoder.layer[1].output.dense.weight += 0.1
    tuned.save_pretrained(tmp_path / "tuned", safe_serialization=True)
    tiny_bert.save_pretrained(tmp_path / "base", safe_serialization=True)
    found = extract(tmp_path / "base", tmp_path / "tuned")
    assert list(found) == ["encoder.layer.1.output.dense.weight"]
    assert extract(tiny_bert, tuned) == found


@pytest.mark.parametrize("strict", ["no", "", 0, None])
def test_strict_is_a_flag(strict: object) -> None:
    tensors = {"w": torch.ones(2)}
    with pytest.raises(ConfigError, match=r"strict is .*expected True or False"):
        extract(tensors, tensors, strict=strict)  # type: ignore[arg-type]
