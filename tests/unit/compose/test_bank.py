"""Bank: what is shown is what ``applied`` shows, the base comes back to the bit, files come and go under a cap."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.compose.bank import Bank
from dtheta.core.apply import applied, originals
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.errors import (
    BaseMismatch,
    ConfigError,
    NonFinite,
    ShapeMismatch,
    UnknownParameter,
    UnsupportedLayer,
)
from tests.unit.compose.banks import close, same, tensors, under_applied, under_applied_later
from tests.unit.compose.examples import KINDS, bits, delta, normal, shared

X = normal(5, 12, name="inputs")


@pytest.mark.parametrize("kind", [*KINDS, "every"])
def test_shows_what_applied_shows(tiny_mlp: nn.Module, kind: str) -> None:
    before, one = bits(tiny_mlp), delta(tiny_mlp, kind)
    wanted, bank = under_applied(tiny_mlp, one), Bank(tiny_mlp)
    bank.add("a", one)
    with bank.using("a") as model:
        assert model is tiny_mlp and bank.current == "a"
        assert close(tensors(tiny_mlp), wanted) and not close(tensors(tiny_mlp), tensors_of(before, tiny_mlp))
        if kind in ("ternary", "ternary by row"):
            assert same(tensors(tiny_mlp), wanted)
    assert bits(tiny_mlp) == before and bank.current is None


def tensors_of(before: dict[str, tuple[object, ...]], model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.tensor(before[n][2]) for n, _ in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_exact_shows_the_same_bits(tiny_mlp: nn.Module, kind: str) -> None:
    one = delta(tiny_mlp, kind)
    wanted, bank = under_applied(tiny_mlp, one), Bank(tiny_mlp, exact=True)
    bank.add("a", one)
    with bank.using("a"):
        assert same(tensors(tiny_mlp), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_of_the_base(tiny_mlp: nn.Module, dtype: torch.dtype) -> None:
    tiny_mlp.to(dtype)
    before = bits(tiny_mlp)
    one = delta(tiny_mlp, "every")
    bank = Bank(tiny_mlp)
    bank.add("a", one)
    wanted = under_applied(tiny_mlp, one)
    with bank.using("a"):
        tolerance = 1e-6 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
        assert all(torch.allclose(p, wanted[n], rtol=tolerance) for n, p in tensors(tiny_mlp).items())
    assert bits(tiny_mlp) == before


def test_convolutions_in_channels_last(tiny_conv: nn.Module) -> None:
    tiny_conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before, one = bits(tiny_conv), delta(tiny_conv, "every")
    wanted, bank = under_applied(tiny_conv, one), Bank(tiny_conv)
    bank.add("a", one)
    with bank.using("a"):
        assert close(tensors(tiny_conv), wanted)
        assert all(p.stride() == wanted[n].stride() for n, p in tiny_conv.named_parameters())
    assert bits(tiny_conv) == before


def test_buffers_are_used_again_and_only_touched_tensors_move(tiny_mlp: nn.Module) -> None:
    bank = Bank(tiny_mlp)
    bank.add("a", delta(tiny_mlp, "ternary", 1, ["0.weight", "0.bias"]))
    bank.add("b", delta(tiny_mlp, "low-rank", 2, ["0.weight", "2.weight"]))
    wanted = {name: under_applied(tiny_mlp, bank[name]) for name in "ab"}
    start = {n: p.data_ptr() for n, p in tiny_mlp.named_parameters()}
    places = []
    for name in "abab":
        bank.switch(name)
        assert close(tensors(tiny_mlp), wanted[name])
        places.append(tiny_mlp[0].weight.data_ptr())
        assert (tiny_mlp[0].bias.data_ptr() == start["0.bias"]) == (name == "b")
        assert tiny_mlp[2].bias.data_ptr() == start["2.bias"]
    assert len(set(places)) == 1 and places[0] != start["0.weight"]
    assert bank.buffer_nbytes == 4 * (12 * 16 + 16 + 16 * 8)
    bank.free()
    assert bank.buffer_nbytes == 4 * (12 * 16 + 16 * 8)  # what is shown stays
    bank.switch(None)
    assert start == {n: p.data_ptr() for n, p in tiny_mlp.named_parameters()}
    bank.free()
    assert bank.buffer_nbytes == 0


def test_blocks_inside_each_other(tiny_mlp: nn.Module) -> None:
    before, bank = bits(tiny_mlp), Bank(tiny_mlp)
    for i, name in enumerate("ab"):
        bank.add(name, delta(tiny_mlp, "ternary", i))
    shown = {name: under_applied(tiny_mlp, bank[name]) for name in "ab"}
    with bank.using("a"):
        with bank.using("b"):
            assert same(tensors(tiny_mlp), shown["b"])
            with bank.using(None):
                assert bits(tiny_mlp) == before
        with pytest.raises(RuntimeError, match="stop"), bank.using("b"):
            raise RuntimeError("stop")
        assert same(tensors(tiny_mlp), shown["a"])
    assert bits(tiny_mlp) == before


def test_with_applied_inside_and_around_in_any_order(tiny_mlp: nn.Module) -> None:
    before, bank = bits(tiny_mlp), Bank(tiny_mlp)
    first, second, third = (delta(tiny_mlp, "dense", i) for i in range(3))
    bank.add("a", first)
    bank.add("b", third)
    both, other = under_applied(tiny_mlp, first + second), under_applied(tiny_mlp, third + second)
    alone = under_applied(tiny_mlp, second)
    bank.switch("a")
    block = applied(tiny_mlp, second)
    block.__enter__()
    assert same(tensors(tiny_mlp), both)
    bank.switch("b")
    assert same(tensors(tiny_mlp), other)
    bank.switch(None)
    assert same(tensors(tiny_mlp), alone)
    bank.switch("a")
    assert same(tensors(tiny_mlp), both)
    block.__exit__(None, None, None)
    assert close(tensors(tiny_mlp), under_applied_later(bank, "a"))
    assert all(torch.equal(t, torch.tensor(before[n][2])) for n, t in originals(tiny_mlp).items())
    bank.switch(None)
    assert bits(tiny_mlp) == before


def test_writing_to_what_is_shown_stays_out_of_the_base(tiny_mlp: nn.Module) -> None:
    before, bank = bits(tiny_mlp), Bank(tiny_mlp)
    bank.add("a", delta(tiny_mlp, "ternary"))
    wanted = under_applied(tiny_mlp, bank["a"])
    with bank.using("a"), torch.no_grad():
        tiny_mlp[0].weight.zero_()
        tiny_mlp[2].weight.data.zero_()
    assert bits(tiny_mlp) == before
    with bank.using("a"):
        assert same(tensors(tiny_mlp), wanted)


def test_a_graph_is_of_no_use_after_a_switch(tiny_mlp: nn.Module) -> None:
    bank = Bank(tiny_mlp)
    for i, name in enumerate("ab"):
        bank.add(name, delta(tiny_mlp, "ternary", i))
    bank.switch("a")
    loss = tiny_mlp(X).sum()
    bank.switch("b")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tied_weights_move_together() -> None:
    model = shared()
    before, bank = bits(model), Bank(model)
    bank.add("a", delta(model, "ternary"))
    bank.add("b", delta(model, "ternary", 1).rename(lambda n: "head.weight" if n == "words.weight" else n))
    with bank.using("b"):
        assert model.head.weight is model.words.weight
        assert torch.equal(model.head.weight, under_applied_later(bank, "b")["words.weight"])
        with bank.using("a"):
            assert torch.equal(model.head.weight, under_applied_later(bank, "a")["words.weight"])
    assert bits(model) == before


def test_inference_mode(tiny_mlp: nn.Module) -> None:
    before, bank = bits(tiny_mlp), Bank(tiny_mlp)
    bank.add("a", delta(tiny_mlp, "every"))
    with torch.inference_mode(), bank.using("a"):
        inside = tiny_mlp(X)
    with bank.using("a"):
        tiny_mlp(X).sum().backward()
        assert torch.equal(tiny_mlp(X), inside)
    tiny_mlp.zero_grad()
    assert bits(tiny_mlp) == before


def test_an_adapter_on_the_model_keeps_working(tiny_mlp: nn.Module) -> None:
    bank = Bank(tiny_mlp)
    bank.add("a", delta(tiny_mlp, "ternary"))
    adapter = attach(tiny_mlp, LoRA(rank=2), "*")
    with torch.no_grad():
        for p in adapter.trainable().values():
            p.add_(0.1)
    with applied(tiny_mlp, bank["a"]):
        wanted = tiny_mlp(X)
    with bank.using("a"):
        assert torch.equal(tiny_mlp(X), wanted)
        assert adapter.delta().base == adapter.delta().base and adapter.delta()["0.weight"].rank == 2
        adapter.delta().base.check(originals(tiny_mlp))  # of the base, not of what is shown
    adapter.detach()


# ---- what cannot be


def test_another_base_is_refused_before_any_tensor_is_read(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    path = delta(tiny_mlp, "ternary").save(tmp_path / "a.delta")
    with torch.no_grad():
        tiny_mlp[2].weight[0, 0] += 1
    bank = Bank(tiny_mlp)
    with pytest.raises(BaseMismatch, match=r"1 differ in content, first: 2\.weight"):
        bank.add("a", path)
    assert "a" not in bank
    loose = Bank(tiny_mlp, strict=False)
    loose.add("a", path)
    with loose.using("a"):
        assert torch.equal(tiny_mlp[0].bias, under_applied_loose(loose, "a"))


def under_applied_loose(bank: Bank, name: str) -> Tensor:
    with bank.using(None), applied(bank.model, bank[name], strict=False):
        return bank.model[0].bias.detach().clone()  # type: ignore[index]


def test_a_base_that_was_written_to_meanwhile(tiny_mlp: nn.Module) -> None:
    bank = Bank(tiny_mlp)
    bank.add("a", delta(tiny_mlp, "ternary"))
    with torch.no_grad():
        tiny_mlp[0].weight += 1
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        bank.switch("a")
    assert bank.current is None


def test_what_does_not_fit(tiny_mlp: nn.Module) -> None:
    bank = Bank(tiny_mlp)
    with pytest.raises(UnknownParameter, match=r"'0\.weigth'.*did you mean"):
        bank.add("a", Delta({"0.weigth": Dense(normal(16, 12))}))
    with pytest.raises(ShapeMismatch, match=r"0\.weight: .*\(12, 16\).*\(16, 12\)"):
        bank.add("a", Delta({"0.weight": Dense(normal(12, 16))}))
    with pytest.raises(UnsupportedLayer, match="'a' brings a vector"):
        bank.add("a", Delta({"prompt": New(normal(3, 4))}))
    with pytest.raises(NonFinite, match=r"'a': its change of 0\.bias"):
        bank.add("a", Delta({"0.bias": Dense(torch.full((16,), float("nan")))}))
    with pytest.raises(ConfigError, match="name of an expert"):
        bank.add("", delta(tiny_mlp))
    with pytest.raises(ConfigError, match="'a' is a int"):
        bank.add("a", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"x\.delta"):
        bank.add("a", "x.delta")
    bank.add("good", delta(tiny_mlp))
    with pytest.raises(ConfigError, match="already"):
        bank.add("good", delta(tiny_mlp))
    with pytest.raises(UnknownParameter, match="did you mean 'good'"):
        bank.switch("god")
    with pytest.raises(ConfigError, match="shows 'good'"), bank.using("good"):
        bank.remove("good")
    bank.remove("good")
    assert list(bank) == [] and len(bank) == 0


def test_two_names_of_a_tied_tensor() -> None:
    model = shared()
    change = Dense(normal(11, 6))
    with pytest.raises(UnsupportedLayer, match="one tied tensor"):
        Bank(model).add("a", Delta({"words.weight": change, "head.weight": change}))


def test_an_overflow_leaves_what_was_shown(tiny_mlp: nn.Module) -> None:
    with torch.no_grad():
        tiny_mlp[2].bias.fill_(3e38)
    before, bank = bits(tiny_mlp), Bank(tiny_mlp)
    bank.add("good", delta(tiny_mlp, "ternary", names=["0.weight"]))
    bank.add("bad", delta(tiny_mlp, "ternary", 1, ["0.weight"]) + Delta({"2.bias": Dense(torch.full((8,), 3e38))}))
    shown = under_applied(tiny_mlp, bank["good"])
    with bank.using("good"):
        with pytest.raises(NonFinite, match=r"'bad': 2\.bias"):
            bank.switch("bad")
        assert bank.current == "good" and same(tensors(tiny_mlp), shown)
    with pytest.raises(NonFinite):
        bank.switch("bad")
    assert bits(tiny_mlp) == before


def test_a_tensor_that_was_replaced_meanwhile_is_named_and_the_others_come_back(tiny_mlp: nn.Module) -> None:
    bank, start = Bank(tiny_mlp), tensors(tiny_mlp)
    bank.add("a", delta(tiny_mlp, "ternary"))
    bank.switch("a")
    tiny_mlp[0].weight = nn.Parameter(normal(16, 12))
    with pytest.raises(UnsupportedLayer, match=r"0\.weight: its module holds another tensor"):
        bank.switch(None)
    assert bank.current is None
    assert all(torch.equal(p, start[n]) for n, p in tiny_mlp.named_parameters() if n != "0.weight")


STEPS = st.lists(st.sampled_from(["a", "b", "c", "base", "wrong", "open", "close"]), max_size=12)


@given(STEPS)
def test_any_order_of_switches_and_blocks(steps: list[str]) -> None:
    """Whatever comes after what: the model shows the base, the expert and the open blocks, added up."""
    model = shared()
    before, bank, inside = bits(model), Bank(model), delta(model, "dense", 9, ["words.weight", "middle.weight"])
    bank.add("a", delta(model, "ternary"))
    bank.add("b", delta(model, "mixed", 1, ["words.weight", "norm.bias"]))
    bank.add("c", delta(model, "low-rank", 2, ["middle.weight"]))
    start, blocks = tensors(model), []
    for step in steps:
        if step == "open":
            blocks.append(applied(model, inside))
            blocks[-1].__enter__()
        elif step == "close" and blocks:
            blocks.pop(0).__exit__(None, None, None)
        elif step == "wrong":
            with pytest.raises(UnknownParameter):
                bank.switch("d")
        elif step != "close":
            bank.switch(None if step == "base" else step)
        shown = [inside] * len(blocks) + ([bank[bank.current]] if bank.current else [])
        for name, found in tensors(model).items():
            moved = sum((one[name].dense() for one in shown if name in one), torch.zeros(()))
            assert torch.allclose(found, start[name] + moved, atol=1e-5)
    bank.switch(None)
    for block in blocks:
        block.__exit__(None, None, None)
    assert bits(model) == before


def test_a_bank_takes_a_module() -> None:
    with pytest.raises(ConfigError, match="the model is a dict; expected a torch module"):
        Bank({})  # type: ignore[arg-type]
