"""How terms reach outputs: our forward where the layer's own is the only use, a parametrization elsewhere."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations

from dtheta.adapt import wiring
from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.sorsa import SORSA
from dtheta.adapt.wiring import AdditiveForward, AdditiveParametrization, Link, take_back
from dtheta.core.apply import merge
from dtheta.core.seeds import generator
from dtheta.core.tensors import attached_to
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer
from tests.shaken import shaken


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5))


@pytest.fixture
def displaced_calls(monkeypatch):
    """How often the product with displaced weight was taken."""
    calls = []
    original = wiring.displaced
    monkeypatch.setattr(wiring, "displaced", lambda *args: calls.append(1) or original(*args))
    return calls


def test_linear_layers_get_a_forward_and_the_rest_a_parametrization(linear, tiny_mha):
    adapter = attach(linear, LoRA(rank=2))
    assert isinstance(linear[0].__dict__["forward"], AdditiveForward)
    assert type(linear[0]) is nn.Linear
    adapter.detach()
    assert "forward" not in linear[0].__dict__
    adapter = attach(tiny_mha, LoRA(rank=2), "@attention")
    assert isinstance(tiny_mha.attention.parametrizations["in_proj_weight"][0], AdditiveParametrization)
    assert len(tiny_mha.attention.parametrizations["in_proj_weight"]) == 1
    adapter.detach()
    assert type(tiny_mha.attention) is nn.MultiheadAttention
    adapter = attach(linear, Full(), "0")
    assert isinstance(linear[0].parametrizations["weight"][0], AdditiveParametrization)
    adapter.detach()


def test_route_is_chosen_by_the_number_of_tokens(linear, displaced_calls):
    adapter = shaken(attach(linear, PiSSA(rank=2)))
    few, many = drawn(2, 6), drawn(3, 6)  # 6 * 5 / (6 + 5) is 2.7
    linear(few)
    assert not displaced_calls
    together = linear(torch.cat([few, many]))
    assert displaced_calls
    torch.testing.assert_close(linear(few), together[:2])
    linear(input=many)
    assert len(displaced_calls) == 2
    adapter.detach()


@pytest.mark.parametrize(
    "why", ["autocast", "dropout", "bfloat16", "functorch", "forward mode", "trained weight", "mixed"]
)
def test_conditions_under_which_the_layers_own_product_is_kept(why, linear, displaced_calls):
    x = drawn(40, 6)
    adapter = shaken(attach(linear, LoRA(rank=2, dropout=0.5 if why == "dropout" else 0.0)))
    expected = (linear.eval()(x) if why != "dropout" else linear(x)).detach()
    displaced_calls.clear()
    if why == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(linear(x).float(), expected, rtol=0.1, atol=0.1)
    elif why == "dropout":
        adapter.train()
        linear(x)
    elif why == "bfloat16":
        linear.to(torch.bfloat16)
        assert linear(x.bfloat16()).dtype == torch.bfloat16
    elif why == "functorch":
        rows = torch.func.vmap(linear)(x[:, None])
        torch.testing.assert_close(rows[:, 0], expected)
    elif why == "forward mode":
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            assert torch.autograd.forward_ad.unpack_dual(linear(dual)).tangent is not None
    elif why == "trained weight":
        second = attach(linear, Full(), "0.weight")
        linear(x).sum().backward()
        assert second.term("0.weight").values.grad is not None
        second.detach()
    else:
        adapter.term("0.weight").double()
        assert linear(x).dtype == torch.float32
    assert not displaced_calls
    adapter.detach()


def test_higher_derivatives_through_a_model(linear):
    adapter = shaken(attach(linear, SORSA(rank=2)))
    term, x = adapter.term("0.weight"), drawn(40, 6)
    (gradient,) = torch.autograd.grad(linear(x).sin().sum(), term.core, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), term.core)
    hessian = torch.func.hessian(
        lambda core: torch.func.functional_call(adapter, {"terms.0/weight.core": core}, (x,)).sin().sum()
    )(term.core.detach())
    torch.testing.assert_close(second, hessian.sum(0), rtol=1e-4, atol=1e-4)
    adapter.detach()


def test_functional_call_on_the_terms(linear):
    adapter = shaken(attach(linear, LoRA(rank=2)))
    x = drawn(40, 6)
    zero = {f"terms.{n}": torch.zeros_like(p) for n, p in adapter.terms.named_parameters()}
    adapter_out = torch.func.functional_call(adapter, zero, (x,))
    with adapter.disabled():
        assert torch.equal(adapter_out, linear(x))
    adapter.detach()


def test_window_of_the_outputs(tiny_gpt2):
    tokens = torch.arange(24).reshape(2, 12)
    adapter = shaken(attach(tiny_gpt2, LoRA(rank=2), "*.c_attn#0:v"))
    layer = tiny_gpt2.transformer.h[0].attn.c_attn
    x, seen = drawn(2, 12, 16), {}
    out = layer(x)
    with adapter.disabled():
        seen["base"] = layer(x)
    assert torch.equal(out[..., :32], seen["base"][..., :32])
    assert not torch.equal(out[..., 32:], seen["base"][..., 32:])
    few = layer(x[:1, :1])
    torch.testing.assert_close(few, out[:1, :1])
    assert tiny_gpt2(tokens).logits.shape == (2, 12, 64)
    adapter.detach()


def test_a_forward_that_was_there_is_kept_and_comes_back(linear):
    calls = []
    own = functools.partial(nn.Linear.forward, linear[0])

    def dispatched(*args):
        calls.append(1)
        return own(*args)

    linear[0].forward = dispatched
    x = drawn(40, 6)
    expected = linear(x)
    adapter = attach(linear, PiSSA(rank=2))
    assert torch.equal(linear(x), expected)
    assert len(calls) == 2
    shaken(adapter)
    assert not torch.equal(linear(x), expected)
    adapter.detach()
    assert linear[0].forward is dispatched
    del linear[0].forward


def test_copy_of_an_adapted_model_is_a_model_of_its_own(linear):
    adapter = shaken(attach(linear, LoRA(rank=2)))
    x = drawn(40, 6)
    before = linear(x).detach()
    twin = copy.deepcopy(adapter)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        twin.term("0.weight").left.zero_()
        twin.model[0].weight.zero_()
    assert torch.equal(linear(x), before)
    assert not torch.equal(twin(x), before)
    twin.detach()
    assert torch.equal(linear(x), before)
    adapter.detach()


def test_merge_sees_what_is_attached(linear, tiny_mha):
    for model, path in ((linear, "0"), (tiny_mha, "attention")):
        adapter = shaken(attach(model, LoRA(rank=2), "@linear"))
        assert path in attached_to(model)
        with pytest.raises(ConfigError, match="adapter is attached"):
            merge(model, adapter.delta())
        adapter.detach()
        assert attached_to(model) == []


def test_recurrent_layers_are_refused():
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 4), "head": nn.Linear(4, 2)})
    with pytest.raises(UnsupportedLayer, match=r"rnn\.weight_ih_l0: LSTM keeps a list"):
        attach(model, LoRA(rank=1), "rnn*")
    attach(model, LoRA(rank=1), "head").detach()
    cell = nn.ModuleList([nn.LSTMCell(4, 4)])
    adapter = shaken(attach(cell, LoRA(rank=1), "*"))
    x = drawn(3, 4)
    moved = cell[0](x)[0]
    with adapter.disabled():
        assert not torch.equal(cell[0](x)[0], moved)
    adapter.detach()


def test_embedding_that_renormalizes_is_refused():
    with pytest.raises(UnsupportedLayer, match="max_norm"):
        attach(nn.Sequential(nn.Embedding(5, 4, max_norm=1.0)), LoRA(rank=1), "@embedding")


def test_scripted_modules_are_refused(linear):
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(linear)
    with pytest.raises(UnsupportedLayer, match="scripted"):
        attach(scripted, LoRA(rank=1), "*")


def test_parametrization_of_another_kind_is_left_alone(linear):
    parametrizations.orthogonal(linear[0])
    with pytest.raises(UnknownParameter, match=r"0\.weight"):
        attach(linear, Full(), "0.weight")
    assert len(linear[0].parametrizations["weight"]) == 1


def test_take_back_undoes_the_last_first():
    done = []

    class Noted(Link):
        def __init__(self, i):
            self.i = i

        def remove(self):
            done.append(self.i)

    links = [Noted(i) for i in range(3)]
    take_back(links)
    assert (done, links) == ([2, 1, 0], [])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parameters_come_back_in_their_order(linear, order):
    names = [n for n, _ in linear.named_parameters()]
    adapters = [attach(linear, Full(), name) for name in ("0.weight", "0.bias")]
    for i in order:
        adapters[i].detach()
    assert [n for n, _ in linear.named_parameters()] == names


def test_copied_adapters_hold_their_base_frozen_until_the_last_leaves(linear):
    adapters = nn.ModuleList([attach(linear, LoRA(rank=2)), attach(linear, PiSSA(rank=2))])
    first, second = copy.deepcopy(adapters)
    model = first.model
    assert model is second.model is not linear
    first.detach()
    assert not model[0].weight.requires_grad
    second.detach()
    assert model[0].weight.requires_grad
    assert not linear[0].weight.requires_grad
    for adapter in adapters:
        adapter.detach()
    assert linear[0].weight.requires_grad


def test_compiled_model_takes_part(linear):
    x = drawn(40, 6)
    compiled = torch.compile(linear, backend="eager")
    base = compiled(x)
    adapter = attach(linear, LoRA(rank=2))
    assert torch.equal(compiled(x), base)
    shaken(adapter)
    moved = compiled(x)
    torch.testing.assert_close(moved, linear(x))
    assert not torch.equal(moved, base)
    adapter.detach()
    assert torch.equal(compiled(x), base)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("tokens", [2, 40])
def test_gradient_checkpointing_gives_the_same_gradients(linear, reentrant, tokens):
    adapter = shaken(attach(linear, PiSSA(rank=2)))
    x = drawn(tokens, 6).requires_grad_()
    linear(x).sin().sum().backward()
    expected = [p.grad.clone() for p in adapter.trainable().values()]
    adapter.zero_grad()
    torch.utils.checkpoint.checkpoint(linear, x, use_reentrant=reentrant).sin().sum().backward()
    for p, grad in zip(adapter.trainable().values(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)
    adapter.detach()


def test_layers_after_an_adapted_one_may_work_in_place():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4))
    adapter = shaken(attach(model, SORSA(rank=2)))
    model(drawn(3, 20, 6)).sum().backward()
    assert all(p.grad is not None for p in adapter.trainable().values())
    adapter.detach()
