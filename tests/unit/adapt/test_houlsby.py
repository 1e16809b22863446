"""Houlsby adapters: the numbers of a plain module, written out and put into the model by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.houlsby import Houlsby
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError

IDS = torch.tensor([[5, 9, 2, 7], [1, 1, 60, 4]])
PLACES = [f"encoder.layer.{i}.{part}.dropout" for i in range(2) for part in ("attention.output", "output")]


class Plain(nn.Module):
    """A bottleneck with its residual, behind the module that it takes the place of."""

    def __init__(self, before: nn.Module, size: int) -> None:
        super().__init__()
        self.before, self.down, self.up = before, nn.Linear(16, size), nn.Linear(size, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return h + self.up(torch.nn.functional.gelu(self.down(h)))


def test_outputs_and_gradients_are_those_of_a_plain_module(tiny_bert: nn.Module) -> None:
    plain = copy.deepcopy(tiny_bert).requires_grad_(False)
    adapter = attach(tiny_bert, Houlsby(size=3), seed=5)
    with torch.no_grad():
        for name, p in adapter.trainable().items():
            p.add_(torch.randn(p.shape, generator=generator(0, name)), alpha=0.3)
    expected = {}
    for place in PLACES:
        parent, _, leaf = place.rpartition(".")
        module = Plain(plain.get_submodule(place), 3)
        setattr(plain.get_submodule(parent), leaf, module)
        linear = {"down": module.down.weight, "down_bias": module.down.bias, "up": module.up.weight}
        for part, parameter in (linear | {"up_bias": module.up.bias}).items():
            parameter.data.copy_(adapter.term(f"{place}.houlsby.gelu.{part}").matrix())
            expected[f"{place}.houlsby.gelu.{part}.values"] = parameter
    ours, theirs = adapter(IDS).last_hidden_state, plain(IDS).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    ours.sin().sum().backward()
    theirs.sin().sum().backward()
    assert set(adapter.trainable()) == set(expected)
    for name, p in adapter.trainable().items():
        torch.testing.assert_close(p.grad, expected[name].grad, rtol=1e-5, atol=1e-6)
    adapter.detach()


def test_the_start_is_drawn_by_seed_and_place_and_adds_nothing(tiny_bert: nn.Module) -> None:
    drawn = {}
    for seed in (0, 0, 1):
        adapter = attach(tiny_bert, Houlsby(size=40), seed=seed)
        for place in PLACES:
            down = adapter.term(f"{place}.houlsby.gelu.down").matrix().detach()
            drawn.setdefault((seed, place), down)
            assert torch.equal(drawn[seed, place], down)
            assert 0.007 < float(down.std()) < 0.013
            assert not adapter.term(f"{place}.houlsby.gelu.up").matrix().any()
        adapter.detach()
    assert len({tuple(values[0].tolist()) for values in drawn.values()}) == 8


def test_the_number_of_parameters(tiny_bert: nn.Module) -> None:
    method = Houlsby(size=5)
    adapter = attach(tiny_bert, method)
    assert sum(p.numel() for p in adapter.trainable().values()) == 4 * method.parameters(16) == 4 * (160 + 5 + 16)
    adapter.detach()


@pytest.mark.parametrize("fields", [{"size": 0}, {"std": 0.0}, {"std": float("inf")}, {"function": "sine"}])
def test_fields_that_cannot_be_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Houlsby(**fields)
