from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.adapt.lora import LoRA
from dtheta.errors import ConfigError
from dtheta.fit.loop import fit
from dtheta.fit.optimizer import adamw, clip, gradient_norm, parameter_groups, set_rate
from dtheta.fit.settings import Settings
from tests.unit.fit.models import regression, squared


def _rates(adapter: Any, **settings: Any) -> dict[str, float]:
    groups = parameter_groups(adapter, Settings(steps=1, lr=1e-2, **settings))
    names = {id(p): name for name, p in adapter.trainable().items()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_full_lr_is_the_rate_of_what_trains_in_full(tiny_mlp: nn.Module) -> None:
    adapter = attach(tiny_mlp, LoRA(rank=2), "0.weight", also="2.*")
    assert set(_rates(adapter).values()) == {1e-2}
    rates = _rates(adapter, full_lr=1e-4)
    assert {name.split(".")[0]: lr for name, lr in rates.items()} == {"0": 1e-2, "2": 1e-4}
    assert set(rates) == set(adapter.trainable())


def test_full_lr_is_the_rate_of_everything_under_full(tiny_mlp: nn.Module) -> None:
    assert set(_rates(attach(tiny_mlp, Full()), full_lr=1e-4).values()) == {1e-4}


def test_full_lr_without_anything_full_is_refused(tiny_mlp: nn.Module) -> None:
    with pytest.raises(ConfigError, match="nothing trains in full"):
        _rates(attach(tiny_mlp, LoRA(rank=2), "0.weight"), full_lr=1e-4)


class Forgetful(LoRA):
    """Groups that leave a parameter out, or hold one twice."""

    change: Callable[[list], list] = staticmethod(lambda params: params)

    def parameter_groups(self, adapter: Any, lr: float) -> list[dict[str, Any]]:
        return [{"params": type(self).change(list(adapter.trainable().values())), "lr": lr}]


@pytest.mark.parametrize(("change", "times"), [(lambda p: p[1:], 0), (lambda p: [p[0], *p], 2)])
def test_groups_that_do_not_hold_everything_once_are_refused(
    tiny_mlp: nn.Module, monkeypatch: pytest.MonkeyPatch, change: Callable[[list], list], times: int
) -> None:
    monkeypatch.setattr(Forgetful, "change", staticmethod(change))
    with pytest.raises(ConfigError, match=f"0.weight.left is {times} times"):
        _rates(attach(tiny_mlp, Forgetful(rank=2), "0.weight"))


def test_groups_of_the_method_keep_their_own_rates_and_decay(
    tiny_mlp: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def groups(self: Any, adapter: Any, lr: float) -> list[dict[str, Any]]:
        left, right = adapter.trainable().values()
        return [{"params": [left], "lr": 4 * lr}, {"params": [right], "lr": lr, "weight_decay": 0.5}]

    monkeypatch.setattr(LoRA, "parameter_groups", groups)
    adapter = attach(tiny_mlp, LoRA(rank=2), "0.weight")
    optimizer = adamw(parameter_groups(adapter, Settings(steps=1, lr=1e-2, weight_decay=0.1)))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.5]
    assert set_rate(optimizer, 0.5) == pytest.approx(2e-2)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([2e-2, 0.5e-2])


def test_norm_and_clipping_are_those_of_torch() -> None:
    ours, torchs = ([nn.Parameter(torch.zeros(n)) for n in (3, 5)] for _ in range(2))
    for a, b in zip(ours, torchs, strict=True):
        a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(len(a)))
        b.grad = a.grad.clone()
    norm = gradient_norm(ours)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(torchs, 0.5))
    clip(ours, 0.5, float(norm))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, torchs, strict=True))


def test_a_small_gradient_and_no_limit_leave_it_alone() -> None:
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    clip([p], None, 5.0)
    clip([p], 6.0, 5.0)
    assert p.grad.tolist() == [3.0, 4.0]


def _after(steps: int, **settings: Any) -> dict[str, torch.Tensor]:
    model = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 8))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) / 3)
    adapter = attach(model, Full())
    rates = {"lr": 0.1, "schedule": "constant", "warmup": 0.0, "optimizer": "sgd", "clip": None, "quiet": True}
    fit(adapter, regression(5), steps=steps, loss=squared, **rates | settings)
    return {name: adapter.delta()[name].dense() for name in adapter.delta()} | {"base": model}  # type: ignore[dict-item]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd_without_clipping_is_the_loop_written_by_hand(momentum: float, decay: float) -> None:
    found = _after(4, momentum=momentum, weight_decay=decay)
    model: Any = found.pop("base")
    x, y = regression(5)[0]
    base = {n: p.detach().clone() for n, p in model.state_dict().items() if "parametrizations" not in n}
    base |= {n.replace("parametrizations.", "").replace(".original", ""): p.detach().clone()
             for n, p in model.state_dict().items() if n.endswith(".original")}  # fmt: skip
    move = {n: torch.zeros_like(p, requires_grad=True) for n, p in base.items()}
    velocity = {n: torch.zeros_like(p) for n, p in base.items()}
    plain = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 8))
    for _ in range(4):
        out = torch.func.functional_call(plain, {n: base[n] + move[n] for n in base}, (x,))
        gradients = torch.autograd.grad((out - y).square().mean(), list(move.values()))
        for (name, d), g in zip(list(move.items()), gradients, strict=True):
            velocity[name] = momentum * velocity[name] + g + decay * d.detach()
            move[name] = (d.detach() - 0.1 * velocity[name]).requires_grad_()
    assert found.keys() == move.keys()
    for name, d in move.items():
        torch.testing.assert_close(found[name], d.detach(), rtol=1e-5, atol=1e-7)


def test_momentum_is_refused_beside_adamw_and_where_it_is_none() -> None:
    with pytest.raises(ConfigError, match=r"momentum=0\.9 goes with optimizer='sgd'"):
        Settings(steps=1, momentum=0.9)
    with pytest.raises(ConfigError, match=r"momentum must lie in \[0, 1\)"):
        Settings(steps=1, optimizer="sgd", momentum=1.0)
    with pytest.raises(ConfigError, match="optimizer must be one of adamw, sgd"):
        Settings(steps=1, optimizer="adam")  # type: ignore[arg-type]
