"""The adapter: a module that reads like its model, trains its terms alone, and gives what it adds as a delta."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.clip_svd import CLIPSVD
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA
from dtheta.core.apply import applied
from dtheta.core.block import Block
from dtheta.core.combination import Sum
from dtheta.core.fingerprint import fingerprint
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, DthetaWarning, UnknownParameter


def drawn(*shape: int, name: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, name))


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4))
    made.note = "mine"
    return made


@pytest.fixture
def adapter(model):
    adapter = attach(model, PiSSA(rank=2), seed=7)
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(drawn(*p.shape, name=name), alpha=0.2)
    return adapter


def test_it_reads_like_the_model(adapter, model):
    assert adapter.note == "mine"
    assert adapter.eval()(drawn(3, 6)).equal(model(drawn(3, 6)))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = adapter.nothing_of_the_kind
    adapter.train()
    assert model[1].training
    assert adapter.terms.training


def test_trainable_parameters_are_named_by_site_and_factor(adapter, model):
    assert list(adapter.trainable()) == ["0.weight.left", "0.weight.right", "2.weight.left", "2.weight.right"]
    assert all(p.requires_grad for p in adapter.trainable().values())
    assert not any(p.requires_grad for p in model.parameters())
    assert list(adapter.sites) == ["0.weight", "2.weight"]
    assert sum(p.numel() for p in adapter.parameters() if p.requires_grad) == 2 * (6 + 5) + 2 * (5 + 4)


def test_term_by_name(adapter):
    assert adapter.term("2.weight").left.shape == (4, 2)
    with pytest.raises(UnknownParameter, match=r"nothing is attached to '1\.weight'; did you mean"):
        adapter.term("1.weight")


def test_model_state_is_unchanged_by_a_forward_of_ours(model):
    names = list(model.state_dict())
    adapter = attach(model, LoRA(rank=2))
    assert list(model.state_dict()) == names
    assert [n for n in adapter.state_dict() if n.startswith("terms.")] == [
        f"terms.{i}/weight.{side}" for i in (0, 2) for side in ("left", "right")
    ]
    adapter.detach()


def test_training_state_goes_through_a_state_dict(model):
    adapter = attach(model, PiSSA(rank=2))
    with torch.no_grad():
        adapter.term("0.weight").left.mul_(2.0)
    state = {n: t.clone() for n, t in adapter.state_dict().items()}
    adapter.detach()
    other = attach(model, PiSSA(rank=2))
    other.load_state_dict(state)
    assert torch.equal(other.term("0.weight").left, state["terms.0/weight.left"])
    other.detach()


def test_delta_says_what_it_is_relative_to_and_how_it_was_made(adapter, model):
    delta = adapter.delta()
    assert list(delta) == ["0.weight", "2.weight"]
    assert delta.base.digests == fingerprint(model).restrict(delta).digests
    assert delta.base.root == fingerprint(model).root
    made = delta.provenance
    assert (made.operation, made.method, made.seed) == ("train", PiSSA(rank=2).to_dict(), 7)
    assert made.settings["uses"] == {}
    adapter.detach()
    assert fingerprint(model).root == delta.base.root


def test_delta_is_a_copy_at_this_moment(adapter):
    delta = adapter.delta()
    before = delta["0.weight"].dense().clone()
    with torch.no_grad():
        adapter.term("0.weight").left.zero_()
    assert torch.equal(delta["0.weight"].dense(), before)


def test_delta_inside_an_applied_block_is_of_the_original_base(adapter, model):
    outside = adapter.delta()
    step = 0.5 * outside
    with applied(model, step):
        inside = adapter.delta()
    assert inside.digest == outside.digest


def test_weight_scales_the_displacement_and_the_delta(adapter, model):
    model.eval()
    x = drawn(3, 6)
    whole = adapter.delta()
    adapter.weight = 0.25
    quarter = adapter.delta()
    torch.testing.assert_close(quarter["0.weight"].dense(), 0.25 * whole["0.weight"].dense())
    out = model(x)
    adapter.detach()
    with applied(model, quarter):
        torch.testing.assert_close(model(x), out, rtol=1e-5, atol=1e-5)


def test_disabled_is_the_base_and_comes_back_also_after_an_exception(adapter, model):
    model.eval()
    x = drawn(3, 6)
    moved = model(x)
    seen = []

    def failing():
        with adapter.disabled() as base:
            assert base is model
            seen.append(model(x))
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert adapter.enabled
    assert torch.equal(model(x), moved)
    adapter.enabled = False
    with adapter.disabled():
        pass
    assert not adapter.enabled
    adapter.detach()
    assert torch.equal(model(x), seen[0])


def test_detach_returns_the_model_once(adapter, model):
    assert adapter.detach() is model
    with pytest.raises(ConfigError, match="detached already"):
        adapter.detach()
    assert all(p.requires_grad for p in model.parameters())


def test_slices_become_blocks_of_the_parameter(tiny_mha):
    adapter = attach(tiny_mha, CLIPSVD(), "attention:qv")
    change = adapter.delta()["attention.in_proj_weight"]
    assert isinstance(change, Sum)
    assert [(type(term), term.start, term.term.kind) for term in change.terms] == [
        (Block, 0, "spectral"),
        (Block, 32, "spectral"),
    ]
    assert tuple(change.shape) == (48, 16)
    adapter.detach()


def test_convolution_keeps_its_shape(tiny_conv):
    adapter = attach(tiny_conv, LoRA(rank=2), "2", also="0.*")
    delta = adapter.delta()
    assert {name: tuple(change.shape) for name, change in delta.changes.items()} == {
        "2.weight": (8, 4, 3, 3),
        "0.weight": (8, 3, 3, 3),
        "0.bias": (8,),
    }
    assert delta.provenance.settings["uses"] == {
        "2.weight": {"2": "conv/2"},
        "0.weight": {"0": "conv"},
        "0.bias": {"0": "bare"},
    }
    adapter.detach()


def test_gradients_reach_the_terms_only(adapter, model):
    adapter(drawn(3, 6)).square().sum().backward()
    assert all(p.grad is not None for p in adapter.trainable().values())
    assert all(p.grad is None for p in model.parameters())
    adapter.detach()


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=2), CLIPSVD()])
def test_an_optimizer_that_has_the_model_but_not_the_terms_is_noticed(model, method):
    adapter = attach(model, method)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    adapter.delta()
    model(drawn(3, 6)).square().sum().backward()
    optimizer.step()
    with pytest.warns(DthetaWarning, match=r"adapter\.trainable\(\)\.values\(\)"):
        adapter.delta()
    torch.optim.AdamW(adapter.trainable().values(), lr=0.1).step()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DthetaWarning)
        assert adapter.delta().norm() > 0
    adapter.detach()


def test_gradients_that_are_zero_blame_no_optimizer(model):
    adapter = attach(model, LoRA(rank=2))
    (0.0 * model(drawn(3, 6)).sum()).backward()
    torch.optim.AdamW(adapter.trainable().values(), lr=0.1, weight_decay=0).step()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DthetaWarning)
        assert adapter.delta().norm() == 0
    adapter.detach()


def test_an_applied_delta_and_an_adapter_add_up(adapter, model):
    model.eval()
    x = drawn(40, 6)
    other = attach(model, LoRA(rank=1), "0", seed=1)
    with torch.no_grad():
        other.term("0.weight").left.add_(1.0)
    both, step = model(x), other.delta()
    other.detach()
    with applied(model, step):
        torch.testing.assert_close(model(x), both, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(x), both)
    adapter.detach()
