"""SNNK adapters: the numbers of a plain module, an algebra that is that of the function, and the gate at zero."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.inserted.random_features import FeatureMap
from dtheta.adapt.snnk import SNNK
from dtheta.core.delta import Delta, total
from dtheta.core.features import RandomFeatures
from dtheta.errors import ConfigError, FormatError
from dtheta.fit.optimizer import parameter_groups
from dtheta.fit.settings import Settings
from tests.shaken import shaken

IDS = torch.tensor([[5, 9, 2, 7], [1, 1, 60, 4]])
PLACES = [f"encoder.layer.{i}.{part}.dropout" for i in range(2) for part in ("attention.output", "output")]


class Plain(nn.Module):
    """ReLU features by hand, what weighs them, and the residual, behind the module that it takes the place of."""

    def __init__(self, before: nn.Module, G: Tensor, psi: Tensor, gate: Tensor | None, up: nn.Linear | None) -> None:
        super().__init__()
        self.before, self.G, self.psi = before, G, nn.Parameter(psi.clone())
        self.gate, self.up = None if gate is None else nn.Parameter(gate.clone()), up

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        phi = (h @ self.G.T).relu() / math.sqrt(len(self.G))
        y = phi @ self.psi.T
        return h + (self.up(y) if self.up is not None else self.gate * y)


@pytest.mark.parametrize("size", [None, 3])
def test_outputs_and_gradients_are_those_of_a_plain_module(tiny_bert: nn.Module, size: int | None) -> None:
    plain = copy.deepcopy(tiny_bert).requires_grad_(False)
    adapter = shaken(attach(tiny_bert, SNNK(features=4, size=size), seed=5))
    G = RandomFeatures("relu", 16, 4, seed=5, projection="orthogonal", bias=False).draws(torch.float32).rows
    expected: dict[str, Tensor] = {}
    for place in PLACES:
        parent, _, leaf = place.rpartition(".")
        name = f"{place}.snnk.relu,m4,seed5"
        term = adapter.term(f"{name}.psi")
        if size is None:
            module = Plain(plain.get_submodule(place), G, term.psi.detach(), term.gate.detach(), None)
            expected |= {f"{name}.psi.psi": module.psi, f"{name}.psi.gate": module.gate}  # type: ignore[dict-item]
        else:
            up = nn.Linear(size, 16)
            up.weight.data.copy_(term.left)
            up.bias.data.copy_(adapter.term(f"{name}.bias").matrix())
            module = Plain(plain.get_submodule(place), G, term.right.detach(), None, up)
            expected |= {f"{name}.psi.left": up.weight, f"{name}.psi.right": module.psi, f"{name}.bias.values": up.bias}
        setattr(plain.get_submodule(parent), leaf, module)
    ours, theirs = adapter(IDS).last_hidden_state, plain(IDS).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.sin().sum().backward()
    theirs.sin().sum().backward()
    assert set(adapter.trainable()) == set(expected)
    for key, p in adapter.trainable().items():
        torch.testing.assert_close(p.grad, expected[key].grad, rtol=1e-4, atol=1e-5)
    adapter.detach()


def test_psi_starts_at_the_features_of_drawn_weights_and_the_gate_at_zero() -> None:
    model = nn.Sequential(nn.Linear(5, 300))
    for init, std in (("bert", 0.02), ("kaiming", 1 / math.sqrt(3 * 300))):
        adapter = attach(model, SNNK(features=6, init=init), "0")  # type: ignore[arg-type]
        term = adapter.term("0.snnk.relu,m6,seed0.psi")
        assert not term.gate.any()
        # relu keeps half of the square of g.w, and |g|^2 is 300 in the mean
        size = math.sqrt(float(6 * term.psi.detach().square().mean()))
        assert math.isclose(size, std * math.sqrt(300 / 2), rel_tol=0.1)
        adapter.detach()


def test_the_first_step_moves_gates_alone_and_psi_has_no_weight_decay(tiny_bert: nn.Module) -> None:
    adapter = attach(tiny_bert, SNNK(features=4))
    adapter(IDS).last_hidden_state.sin().sum().backward()
    for name, p in adapter.trainable().items():
        assert bool(p.grad.any()) == name.endswith(".gate")
    groups = parameter_groups(adapter, Settings(steps=1, lr=0.1, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert all(decay[id(p)] == (0.3 if n.endswith(".gate") else 0.0) for n, p in adapter.trainable().items())
    delta = shaken(adapter).delta()
    adapter.detach()
    again = attach(tiny_bert, delta)  # the product trains on: it may decay
    groups = parameter_groups(again, Settings(steps=1, lr=0.1, weight_decay=0.3))
    assert {group["weight_decay"] for group in groups} == {0.3}
    again.detach()


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_sums_and_multiples_are_those_of_what_is_added(size: int | None, seeds: tuple[int, int]) -> None:
    model, x = nn.Sequential(nn.Linear(5, 6)).double(), torch.randn(7, 5, dtype=torch.float64)
    h, moved, deltas = model(x).detach(), [], []
    for i, seed in enumerate(seeds):
        adapter = shaken(attach(model, SNNK(features=4, size=size), "0", seed=seed), seed=i)
        moved.append(adapter(x).detach() - h)
        deltas.append(adapter.delta())
        adapter.detach()
    joint = total([0.5 * deltas[0], -2.0 * deltas[1]])
    assert len(joint) == len(deltas[0]) * len(set(seeds))  # other features stand beside, and do not mix
    adapter = attach(model, joint)
    torch.testing.assert_close(adapter(x).detach(), h + 0.5 * moved[0] - 2.0 * moved[1])
    adapter.detach()


def test_features_of_one_name_are_the_same_in_every_delta(tiny_bert: nn.Module) -> None:
    adapter = attach(tiny_bert, SNNK(features=4, projection="gaussian", threshold=-0.5, scale=0.25), seed=-2)
    delta = adapter.delta()
    adapter.detach()
    code = "relu,m4,seed-2,gaussian,threshold-0.5,scale0.25"
    assert list(delta) == [f"{place}.snnk.{code}.psi" for place in PLACES]
    psi = torch.randn(16, 4)
    bare = Delta({name: type(change)(psi) for name, change in delta.changes.items()})
    G = RandomFeatures("relu", 16, 4, seed=-2, projection="gaussian", bias=False).draws(torch.float32).rows
    found = attach(tiny_bert, bare)
    h = torch.randn(3, 16)
    dropout = tiny_bert.get_submodule(PLACES[0])
    torch.testing.assert_close(dropout(h), h + ((0.25 * h @ G.T).clamp(min=-0.5) / 2) @ psi.T)
    found.detach()


@pytest.mark.parametrize("function", ["gelu", "exp", "sin", "gaussian"])
def test_other_functions_run_and_train(tiny_bert: nn.Module, function: str) -> None:
    method = SNNK(features=4, function=function, scale=0.1)
    adapter = attach(tiny_bert, method)
    assert sum(p.numel() for p in adapter.trainable().values()) == 4 * method.parameters(16)
    shaken(adapter, 0.1)(IDS).last_hidden_state.sin().sum().backward()
    assert all(p.grad.any() for p in adapter.trainable().values())
    adapter.detach()


@pytest.mark.parametrize(("size", "count"), [(None, 16 * 4 + 16), (3, 3 * 4 + 16 * 3 + 16)])
def test_the_number_of_parameters(tiny_bert: nn.Module, size: int | None, count: int) -> None:
    method = SNNK(features=4, size=size)
    adapter = attach(tiny_bert, method)
    assert sum(p.numel() for p in adapter.trainable().values()) == 4 * method.parameters(16) == 4 * count
    adapter.detach()


@pytest.mark.parametrize(
    "fields",
    [{"features": 0}, {"size": 0}, {"scale": 0.0}, {"function": "sine"}, {"projection": "lattice"}, {"init": "zero"},
     {"threshold": "low"}],
)  # fmt: skip
def test_fields_that_cannot_be_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(fields)))):
        SNNK(**fields)


def test_no_weight_is_selected_for_it_but_a_place(tiny_bert: nn.Module) -> None:
    adapter = attach(tiny_bert, SNNK(features=4), "*.output.dense#1", also="pooler.dense.bias")
    assert len(adapter.grafts) == 2
    assert list(adapter.sites) == ["pooler.dense.bias"]
    assert adapter.settings["select"] == "*.output.dense#1"
    adapter.detach()


@pytest.mark.parametrize("scale", ["scale1e999", "scale-1", "scale0.0"])
def test_a_name_cannot_say_a_scale_that_the_method_refuses(scale: str) -> None:
    with pytest.raises(FormatError, match="names no random features"):
        FeatureMap.read(f"relu,m16,seed0,{scale}")
