"""Networks on a model: identity at the start, sums of what stands at one place, and nothing left behind."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.houlsby import Houlsby
from dtheta.adapt.lora import LoRA
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.snnk import SNNK
from dtheta.core.apply import applied, merge
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.interop import to_peft
from dtheta.core.seeds import generator
from dtheta.errors import BaseMismatch, FormatError, NonFinite, ShapeMismatch, UnknownParameter, UnsupportedLayer
from dtheta.fit.loop import fit
from tests.shaken import shaken

METHODS: list[Method] = [SNNK(features=4), SNNK(features=4, size=3), Houlsby(size=3)]
IDS = torch.tensor([[5, 9, 2, 7], [1, 1, 60, 4]])
each = pytest.mark.parametrize("method", METHODS, ids=["square", "bottleneck", "houlsby"])


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).last_hidden_state


def state(model: nn.Module) -> Any:
    modules = [(name, type(m), sorted(m.__dict__), len(m._forward_hooks)) for name, m in model.named_modules()]
    return modules, [(n, p.requires_grad) for n, p in model.named_parameters()], list(model.state_dict())


@each
def test_nothing_moves_before_training_and_nothing_is_left_behind(tiny_bert: nn.Module, method: Method) -> None:
    before, known = run(tiny_bert), state(tiny_bert)
    bits = {name: p.detach().clone() for name, p in tiny_bert.named_parameters()}
    adapter = attach(tiny_bert, method)
    assert torch.equal(run(adapter), before)
    assert list(tiny_bert.state_dict()) == known[2]
    shaken(adapter)
    assert not torch.allclose(run(adapter), before, atol=1e-2)
    with adapter.disabled():
        assert torch.equal(run(tiny_bert), before)
    adapter.detach()
    assert torch.equal(run(tiny_bert), before)
    assert state(tiny_bert) == known
    assert all(torch.equal(p, bits[name]) for name, p in tiny_bert.named_parameters())


@each
def test_a_file_runs_bit_for_bit_and_trains_on(tiny_bert: nn.Module, method: Method, tmp_path: Any) -> None:
    adapter = shaken(attach(tiny_bert, method, seed=3))
    moved, delta = run(adapter), adapter.delta()
    adapter.detach()
    found = load(delta.save(tmp_path / "network.delta"))
    assert found == delta
    again = attach(tiny_bert, found)
    assert torch.equal(run(again), moved)
    assert again.delta() == delta
    again(IDS).last_hidden_state.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in again.trainable().values())
    again.detach()


@each
def test_a_copy_is_an_adapter_of_its_own(tiny_bert: nn.Module, method: Method) -> None:
    before = run(tiny_bert)
    adapter = shaken(attach(tiny_bert, method))
    moved = run(adapter)
    for twin in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert torch.equal(run(twin), moved)
        shaken(twin)
        assert torch.equal(run(tiny_bert), moved)
        twin.detach()
        assert torch.equal(run(twin.model), before)
        assert not any(m._forward_hooks for m in twin.model.modules())
    adapter.detach()


@each
def test_adapters_on_one_model_see_the_same_output_and_add_up(method: Method) -> None:
    model = nn.Sequential(nn.Linear(5, 6))
    x = torch.randn(7, 5)
    h = model(x).detach()
    moved, adapters = [], []
    for seed in (0, 1):
        adapter = shaken(attach(model, method, "0", seed=seed), seed=seed)
        moved.append(adapter(x).detach() - h)
        adapter.detach()
        adapters.append(adapter.delta())
    first, second = (attach(model, delta) for delta in adapters)
    torch.testing.assert_close(model(x), h + moved[0] + moved[1])
    first.detach()
    torch.testing.assert_close(model(x), h + moved[1])
    second.weight = 0.0
    assert torch.equal(model(x).detach(), h)
    second.detach()


@each
def test_the_weight_of_an_adapter_is_that_of_its_delta(tiny_bert: nn.Module, method: Method) -> None:
    adapter = shaken(attach(tiny_bert, method))
    delta = adapter.delta()
    adapter.weight = 0.5
    half = run(adapter)
    torch.testing.assert_close(adapter.delta()[adapter.grafts[0]].dense(), 0.5 * delta[adapter.grafts[0]].dense())
    adapter.detach()
    for made, weight in ((delta, 0.5), (0.5 * delta, 1.0)):
        found = attach(tiny_bert, made, weight=weight)
        torch.testing.assert_close(run(found), half)
        found.detach()


@each
def test_a_term_of_the_layer_comes_first_in_whatever_order_they_are_attached(method: Method) -> None:
    model = nn.Sequential(nn.Linear(5, 6))
    x, outputs = torch.randn(7, 5), []
    for methods in ([LoRA(rank=2), method], [method, LoRA(rank=2)]):
        adapters = [shaken(attach(model, m, "0")) for m in methods]
        outputs.append(model(x).detach())
        for adapter in adapters:  # the first one is taken off first
            adapter.detach()
        assert "forward" not in model[0].__dict__
        assert not model[0]._forward_hooks
    torch.testing.assert_close(*outputs)


@each
def test_training_lowers_the_loss_and_leaves_the_base(tiny_bert: nn.Module, method: Method) -> None:
    bits = {name: p.detach().clone() for name, p in tiny_bert.named_parameters()}
    target = torch.randn(2, 16, generator=generator(0, "target"))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch).last_hidden_state[:, 0] - target).square().mean()

    adapter = attach(tiny_bert, method)
    record = fit(adapter, [IDS], steps=25, loss=loss, lr=0.05, quiet=True)
    losses = [value for _, value in record.losses]
    assert losses[-1] < 0.8 * losses[0]
    adapter.detach()
    assert all(torch.equal(p, bits[name]) for name, p in tiny_bert.named_parameters())


def test_another_base_is_refused(tiny_bert: nn.Module) -> None:
    adapter = attach(tiny_bert, METHODS[0])
    delta = adapter.delta()
    adapter.detach()
    assert "encoder.layer.1.output.dense.weight" in delta.base.digests
    with torch.no_grad():
        tiny_bert.encoder.layer[1].output.dense.weight[0, 0] += 1  # type: ignore[union-attr, index]
    with pytest.raises(BaseMismatch, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        attach(tiny_bert, delta)
    attach(tiny_bert, delta, strict=False).detach()


@each
def test_another_width_a_missing_part_and_a_missing_place_are_refused(method: Method) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4))
    adapter = attach(model, method, "0")
    delta = adapter.delta()
    adapter.detach()
    for wanted, other in ((4, lambda n: "1" + n[1:]), (6, lambda n: "0" + n[1:])):
        part = {name: c for name, c in delta.changes.items() if wanted == 4 or not name.endswith(("psi", "up"))}
        if wanted == 6 and not part:  # the square form is one vector
            continue
        with pytest.raises(ShapeMismatch, match="another model, or a part of the delta is missing"):
            attach(model, Delta(part).rename(other))
        assert not any(m._forward_hooks for m in model)
    with pytest.raises(UnknownParameter, match="no linear layer of this model"):
        attach(model, Delta(delta.changes).rename(lambda n: "7" + n[1:]))
    assert all(p.requires_grad for p in model.parameters())


def test_a_damaged_name_or_number_is_refused(tiny_mlp: nn.Module) -> None:
    with pytest.raises(FormatError, match="names no random features"):
        attach(tiny_mlp, Delta({"0.snnk.relu.psi": New(torch.zeros(16, 4))}))
    with pytest.raises(ShapeMismatch, match="expected"):  # and nothing of that size is drawn
        attach(tiny_mlp, Delta({"0.snnk.relu,m999999999999,seed0.psi": New(torch.zeros(16, 4))}))
    with pytest.raises(UnsupportedLayer, match="no known function of a bottleneck"):
        attach(tiny_mlp, Delta({"0.houlsby.gel.down": New(torch.zeros(4, 16))}))
    with pytest.raises(NonFinite):
        attach(tiny_mlp, Delta({"0.snnk.relu,m4,seed0.psi": New(torch.full((16, 4), torch.nan))}))
    assert not any(m._forward_hooks for m in tiny_mlp.modules())


@each
def test_no_checkpoint_and_no_peft_folder_has_a_place_for_it(
    tiny_bert: nn.Module, method: Method, tmp_path: Any
) -> None:
    adapter = attach(tiny_bert, method)
    delta = adapter.delta()
    adapter.detach()
    with pytest.raises(UnsupportedLayer, match="attach it"):
        merge(tiny_bert, delta)
    with pytest.raises(UnsupportedLayer, match="attach it"), applied(tiny_bert, delta):
        pass
    for part in (delta, delta.restrict("*.psi|*.up")):
        with pytest.raises(UnsupportedLayer, match="peft's LoRA has no place for it"):
            to_peft(part, tmp_path / "peft", base_name="tiny")
    assert not (tmp_path / "peft").exists()


def test_networks_and_a_prompt_come_from_one_delta(tiny_bert: nn.Module) -> None:
    with_prompt = shaken(attach(tiny_bert, PromptTuning(length=2)))
    with_networks = shaken(attach(tiny_bert, METHODS[0]))
    moved = run(tiny_bert)
    delta = with_prompt.delta() + with_networks.delta()
    with_networks.detach()
    with_prompt.detach()
    adapter = attach(tiny_bert, delta)
    assert torch.equal(run(adapter), moved)
    values = adapter.term("prompt.input").matrix().detach()
    with adapter.showing({"prompt.input": torch.zeros_like(values)}):
        assert not torch.equal(run(adapter), moved)
    assert torch.equal(run(adapter), moved)
    adapter.detach()


def test_narrow_bases_train_in_float32(tiny_bert: nn.Module) -> None:
    model = tiny_bert.bfloat16()
    before = run(model)
    for method in METHODS:
        adapter = attach(model, method)
        assert torch.equal(run(adapter), before)
        assert all(p.dtype == torch.float32 for p in adapter.trainable().values())
        shaken(adapter)
        assert run(adapter).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            adapter(IDS).last_hidden_state.float().sum().backward()
        assert all(p.grad is not None for p in adapter.trainable().values())
        adapter.detach()
    assert torch.equal(run(model), before)


def test_training_goes_on_after_inference_mode(tiny_bert: nn.Module) -> None:
    for method in METHODS:
        adapter = attach(tiny_bert, method)
        with torch.inference_mode():
            adapter(IDS)
        adapter(IDS).last_hidden_state.sum().backward()
        adapter.detach()


def test_a_place_in_a_replaced_mlp_is_refused(tiny_llama: nn.Module) -> None:
    from dtheta.core.mlps import find_mlps
    from dtheta.core.replaced_forward import standing_in

    found = find_mlps(tiny_llama)
    with standing_in([(found[1], nn.Identity())]):
        with pytest.raises(UnsupportedLayer, match=r"layers\.1\.mlp\.down_proj: the MLP .* is replaced"):
            attach(tiny_llama, METHODS[0])
        attach(tiny_llama, SNNK(features=4, placement="attention")).detach()
    attach(tiny_llama, METHODS[0]).detach()
