"""Flags: off while an adapter is there, back with the last one, whatever became of the parameters in between."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.adapt.pissa import PiSSA


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}


def replaced(model: nn.Module) -> None:
    """Put new parameters in the place of all, as a checkpoint that is loaded without a copy does."""
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(5, 4, 1))
    made[0].bias.requires_grad_(False)
    return made


@pytest.mark.parametrize(
    ("method", "select"), [(LoRA(rank=2), "@all"), (PiSSA(rank=2), "1"), (Full(), "@all")], ids=str
)
def test_parameters_that_were_replaced_while_attached_get_the_flags(model, method, select):
    before = flags(model)
    adapter = attach(model, method, select)
    replaced(model)
    assert not any(flags(model).values())
    adapter.detach()
    assert flags(model) == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_adapter_from_before_and_one_from_after_the_replacement(model, order):
    before = flags(model)
    first = attach(model, LoRA(rank=2), "0")
    replaced(model)
    adapters = [first, attach(model, PiSSA(rank=2), "0")]
    adapters[order[0]].detach()
    adapters[order[1]].detach()
    assert flags(model) == before


def test_a_newer_adapter_keeps_replaced_parameters_frozen(model):
    first = attach(model, LoRA(rank=2), "0")
    replaced(model)
    second = attach(model, LoRA(rank=2), "0")
    first.detach()
    assert not any(flags(model).values())
    second.detach()


def test_replacing_tied_parameters_frees_every_one():
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["table"].weight
    adapter = attach(model, LoRA(rank=2), "table")
    replaced(model)
    adapter.detach()
    assert flags(model) == {"table.weight": True, "head.weight": True}


def test_a_parameter_of_ones_own_keeps_its_flag(model):
    adapter = attach(model, LoRA(rank=2), "0")
    model[0].bias = nn.Parameter(torch.ones(5))
    adapter.detach()
    assert model[0].bias.requires_grad


@pytest.mark.parametrize("method", [LoRA(rank=2), PiSSA(rank=2), Full()], ids=str)
def test_models_made_in_inference_mode(method):
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(5, 4, 1))
    x = torch.ones(2, 6)
    with torch.no_grad():
        before = model[0](x)
        adapter = attach(model, method, "*.weight")
        assert torch.equal(model[0](x), before)
        assert not any(flags(model).values())
        adapter.detach()
        assert torch.equal(model[0](x), before)
    assert all(flags(model).values())
    assert [type(module) for module in model] == [nn.Linear, nn.Conv1d]


def test_copies_count_for_themselves(model):
    adapter = attach(model, LoRA(rank=2), "0")
    twin = copy.deepcopy(adapter)
    replaced(twin.model)
    twin.detach()
    assert flags(twin.model) == {"0.weight": True, "0.bias": False, "1.weight": True, "1.bias": True}
    assert not any(flags(model).values())
    adapter.detach()
