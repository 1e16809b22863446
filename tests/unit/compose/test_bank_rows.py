"""Batches of several experts: every row comes out as if its expert were alone."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.qpissa import NF4
from dtheta.adapt.quantized import quantize
from dtheta.compose.bank import Bank
from dtheta.compose.bank_rows import cut, joined, order
from dtheta.compress.compeft import compress
from dtheta.core.apply import applied, merge
from dtheta.core.tensors import base_tensors
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch, UnknownParameter, UnsupportedLayer
from tests.unit.compose.banks import adapter, alone
from tests.unit.compose.examples import bits, delta, normal


@pytest.fixture
def mlp_bank(tiny_mlp: nn.Module) -> Bank:
    bank = Bank(tiny_mlp)
    for i in range(3):
        bank.add(f"r{i + 1}", adapter(tiny_mlp, i, rank=i + 1))
    bank.add("packed", compress(adapter(tiny_mlp, 3, 3), 0.5))
    bank.add("one layer", adapter(tiny_mlp, 4, 2, "2.weight"))
    bank.add("signs", delta(tiny_mlp, "ternary", 5))
    bank.add("dense", delta(tiny_mlp, "dense", 6))
    return bank


MIXED = ["r2", None, "signs", "packed", "r1", "dense", "r2", "one layer", "signs", "r3"]


@pytest.mark.parametrize("grouped", [False, True])
def test_rows_of_a_mixed_batch(mlp_bank: Bank, grouped: bool) -> None:
    before, x = bits(mlp_bank.model), normal(len(MIXED), 12)
    found = mlp_bank.run(x, experts=MIXED, grouped=grouped)
    assert torch.allclose(found, alone(mlp_bank, MIXED, x), atol=1e-5)
    assert not torch.allclose(found, alone(mlp_bank, [None] * len(MIXED), x), atol=1e-2)
    assert not found.requires_grad and bits(mlp_bank.model) == before
    assert not any(module._forward_hooks for module in mlp_bank.model.modules())


@pytest.mark.parametrize(
    "names",
    [
        ["r1"],
        ["r1", "r1"],
        ["signs"] * 3,
        [None, None],
        ["r1", None],
        ["dense", None],
        ["packed", "r3"],
        ["r3", "packed", "r3"],
    ],
)
def test_batches_of_few_experts(mlp_bank: Bank, names: list[str | None]) -> None:
    x = normal(len(names), 12)
    assert torch.allclose(mlp_bank.run(x, experts=names), alone(mlp_bank, names, x), atol=1e-5)


def test_more_axes_than_rows(mlp_bank: Bank) -> None:
    names: list[str | None] = ["r3", "packed", None]
    x = normal(3, 4, 5, 12)
    assert torch.allclose(mlp_bank.run(x, experts=names), alone(mlp_bank, names, x), atol=1e-5)


def test_the_model_runs_once_for_low_rank_rows_and_once_for_each_other_expert(mlp_bank: Bank) -> None:
    sizes: list[int] = []
    mlp_bank.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    mlp_bank.run(normal(len(MIXED), 12), experts=MIXED)
    assert sizes == [7, 2, 1]


def test_gpt2_whose_weights_are_stored_the_other_way(tiny_gpt2: nn.Module) -> None:
    bank = Bank(tiny_gpt2)
    for i in range(3):
        bank.add(str(i), adapter(tiny_gpt2, i, 2, "@blocks"))
    ids = torch.arange(24).reshape(4, 6)
    names: list[str | None] = ["2", None, "0", "2"]
    found = bank.run(ids, experts=names, use_cache=False)
    assert type(found).__name__ == "CausalLMOutputWithCrossAttentions"
    with torch.no_grad():
        wanted = alone(bank, names, ids, lambda o: o.logits)
    assert torch.allclose(found.logits, wanted, atol=1e-4)
    grouped = bank.run(ids, experts=names, use_cache=False, grouped=True)
    assert torch.allclose(grouped.logits, wanted, atol=1e-4)
    with pytest.raises(UnsupportedLayer, match=r"DynamicCache.*use_cache=False"):
        bank.run(ids, experts=names, grouped=True)


def test_bert_with_masks_of_different_lengths(tiny_bert: nn.Module) -> None:
    bank = Bank(tiny_bert)
    bank.add("a", adapter(tiny_bert, 0, 2, "@blocks"))
    bank.add("b", adapter(tiny_bert, 1, 3, "@attention"))
    bank.add("signs", delta(tiny_bert, "ternary", 2))
    ids = torch.arange(24).reshape(4, 6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[3, 2:] = 0
    names: list[str | None] = ["signs", "b", "a", "b"]
    found = bank.run(experts=names, input_ids=ids, attention_mask=mask).last_hidden_state
    for i, name in enumerate(names):
        with bank.using(name), torch.no_grad():
            row = tiny_bert(input_ids=ids[i : i + 1], attention_mask=mask[i : i + 1]).last_hidden_state[0]
        assert torch.allclose(found[i], row, atol=1e-5)


def test_batched_runs_any_number_of_times_and_bears_gradients(mlp_bank: Bank) -> None:
    names: list[str | None] = ["r1", None, "r3", "r1"]
    x = normal(4, 12).requires_grad_()
    with mlp_bank.batched(names) as model:
        first = model(x)
        assert torch.equal(first, model(x))
        with pytest.raises(ConfigError, match="an adapter is attached"):
            merge(model, mlp_bank["r1"])
    assert torch.allclose(first, alone(mlp_bank, names, x), atol=1e-5)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    for i, name in enumerate(names):
        row = x[i : i + 1].detach().requires_grad_()
        with mlp_bank.using(name):
            (wanted,) = torch.autograd.grad(mlp_bank.model(row).sum(), row)
        assert torch.allclose(gradient[i], wanted[0], atol=1e-5)


def test_one_name_stands_for_all_rows(mlp_bank: Bank) -> None:
    inputs = [normal(1, 12), normal(5, 12)]
    with mlp_bank.batched("r2") as model, torch.no_grad():
        found = [model(x) for x in inputs]
    for x, y in zip(inputs, found, strict=True):
        assert torch.allclose(y, alone(mlp_bank, ["r2"] * len(x), x), atol=1e-5)


def test_no_switch_where_rows_have_experts_of_their_own(mlp_bank: Bank) -> None:
    with mlp_bank.batched("r2"):
        for entered in (mlp_bank.using("dense"), mlp_bank.using(None), mlp_bank.batched(["r1"])):
            with pytest.raises(ConfigError, match="leave that block first"), entered:
                pass
    with mlp_bank.using("dense"):
        assert mlp_bank.current == "dense"


def test_batched_on_top_of_what_is_shown(mlp_bank: Bank) -> None:
    x = normal(2, 12)
    wanted = alone(mlp_bank, ["r1", None], x)
    with mlp_bank.using("dense"):
        assert torch.allclose(mlp_bank.run(x, experts=["r1", None]), wanted, atol=1e-5)
        assert mlp_bank.current == "dense"


def test_hooks_go_when_the_block_raises(mlp_bank: Bank) -> None:
    before = bits(mlp_bank.model)
    with pytest.raises(RuntimeError, match="stop"), mlp_bank.batched(["r1"]):
        raise RuntimeError("stop")
    with pytest.raises(UnsupportedLayer, match=r"0\.weight: its layer gets \(3, 12\).*the 2 rows"):
        with mlp_bank.batched(["r1", "r2"]) as model:
            model(normal(3, 12))
    assert bits(mlp_bank.model) == before
    assert not any(module._forward_hooks for module in mlp_bank.model.modules())


def test_an_adapter_on_the_model_adds_to_all_rows(tiny_mlp: nn.Module) -> None:
    bank, names = Bank(tiny_mlp), ["a", None]
    bank.add("a", adapter(tiny_mlp, 0))
    attached, x = attach(tiny_mlp, adapter(tiny_mlp, 1)), normal(2, 12)
    found = bank.run(x, experts=names)
    attached.detach()
    for i, one in enumerate((adapter(tiny_mlp, 0) + adapter(tiny_mlp, 1), adapter(tiny_mlp, 1))):
        with applied(tiny_mlp, one):
            assert torch.allclose(found[i], tiny_mlp(x[i]), atol=1e-5)


def test_weights_in_four_bits_take_experts_unmerged(tiny_mlp: nn.Module) -> None:
    packed = quantize(tiny_mlp, NF4(), "*").model
    bank, x = Bank(packed), normal(2, 12)
    bank.add("a", adapter(packed, 0))
    attached = attach(packed, adapter(packed, 0))
    wanted = attached(x)[0].detach()
    attached.detach()
    found = bank.run(x, experts=["a", None])
    assert torch.allclose(found[0], wanted, atol=1e-5) and torch.allclose(found[1], packed(x)[1], atol=1e-6)
    assert torch.allclose(bank.run(x, experts=["a", "a"])[0], wanted, atol=1e-5)
    with pytest.raises(UnsupportedLayer, match="cannot be shown"):
        bank.switch("a")


def test_modules_that_were_replaced_are_seen(tiny_mlp: nn.Module) -> None:
    bank, x = Bank(tiny_mlp), normal(2, 12)
    bank.add("a", adapter(tiny_mlp, 0))
    wanted, first = bank.run(x, experts=["a", None]), tiny_mlp[0]
    tiny_mlp[0] = copy.deepcopy(first)
    assert torch.equal(bank.run(x, experts=["a", None]), wanted)
    tiny_mlp[0] = nn.Linear(12, 16)
    for call in (lambda: bank.run(x, experts=["a", None]), lambda: bank.switch("a")):
        with pytest.raises(BaseMismatch, match=r"0\.weight"):
            call()


def test_the_cap_holds_for_those_that_run_together(tiny_mlp: nn.Module, tmp_path: Any) -> None:
    paths = [adapter(tiny_mlp, i).save(tmp_path / f"{i}.delta") for i in range(3)]
    size = adapter(tiny_mlp, 0).nbytes
    bank = Bank(tiny_mlp, 2 * size)
    for i, path in enumerate(paths):
        bank.add(str(i), path)
    x = normal(3, 12)
    with pytest.raises(ConfigError, match="ask for fewer at once"):
        bank.run(x, experts=["0", "1", "2"])
    assert torch.allclose(
        bank.run(x, experts=["0", "1", "2"], grouped=True), alone(bank, ["0", "1", "2"], x), atol=1e-5
    )


def test_what_cannot_run_by_rows(mlp_bank: Bank, tiny_mha: nn.Module) -> None:
    for name, why in (("signs", "ternary, which has no factors"), ("dense", "dense")):
        with pytest.raises(UnsupportedLayer, match=why), mlp_bank.batched([name]):
            pass
    with pytest.raises(UnknownParameter, match="did you mean"):
        mlp_bank.run(normal(1, 12), experts=["signz"])
    with pytest.raises(ConfigError, match="one name"):
        mlp_bank.run(normal(1, 12), experts="r1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"\(3, 12\) for 2 rows"):
        mlp_bank.run(normal(3, 12), experts=["r1", "signs"])
    bank = Bank(tiny_mha)
    bank.add("a", delta(tiny_mha, "low-rank", names=["attention.out_proj.weight"]))
    with pytest.raises(UnsupportedLayer, match="no linear layer whose own forward"), bank.batched(["a"]):
        pass
    x = normal(2, 3, 16)
    assert torch.allclose(bank.run(x, experts=["a", None]), alone(bank, ["a", None], x), atol=1e-5)


# ---- cutting and joining


class Pair(NamedTuple):
    a: Tensor
    b: Any


def test_cut_and_join_are_inverse() -> None:
    x = normal(5, 2)
    inputs = {"x": x, "pair": Pair(x[:, 0], [x, None]), "one": x[:1], "number": torch.tensor(3.0), "flag": True}
    groups = [torch.tensor([4, 1]), torch.tensor([0]), torch.tensor([2, 3])]
    parts = [cut(inputs, index, 5) for index in groups]
    assert torch.equal(parts[0]["x"], x[[4, 1]]) and parts[0]["flag"] is True
    assert parts[0]["one"] is inputs["one"] and parts[0]["number"] is inputs["number"]
    whole = joined([{"x": p["x"], "pair": p["pair"]} for p in parts], groups)
    assert torch.equal(whole["x"], x) and isinstance(whole["pair"], Pair) and torch.equal(whole["pair"].a, x[:, 0])
    assert torch.equal(whole["pair"].b[0], x) and whole["pair"].b[1] is None


def test_outputs_that_are_no_rows() -> None:
    groups = [torch.tensor([0]), torch.tensor([1, 2])]
    with pytest.raises(ShapeMismatch, match=r"the output\['loss'\]: \(\) for 1 rows"):
        joined([{"loss": torch.tensor(1.0)}] * 2, groups)
    with pytest.raises(ShapeMismatch, match=r"\(4,\) a row, one \(5,\)"):
        joined([torch.ones(1, 4), torch.ones(2, 5)], groups)
    with pytest.raises(ShapeMismatch, match="different entries"):
        joined([{"a": torch.ones(1)}, {"b": torch.ones(2)}], groups)
    with pytest.raises(UnsupportedLayer, match="a str"):
        joined(["a", "b"], groups)


def test_order_of_groups() -> None:
    assert order(["a", "b", None, "a", "c"], frozenset({"a", "c", None})) == [[0, 2, 3, 4], [1]]
    assert order(["a", None, "a"], frozenset()) == [[0, 2], [1]]


def test_examples_change_every_linear_weight(tiny_mlp: nn.Module) -> None:
    assert set(adapter(tiny_mlp, 0)) == {n for n in base_tensors(tiny_mlp) if n.endswith("weight")}


@pytest.mark.parametrize("name", ["r2", "dense", "signs", None])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_rows_are_counted_where_all_have_one_expert_too(mlp_bank: Bank, name: str | None, count: int) -> None:
    with pytest.raises(ConfigError, match="rows, one for each expert named"):
        mlp_bank.run(normal(6, 12), experts=[name] * count)
