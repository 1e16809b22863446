"""Full fine-tuning and BitFit as deltas: the displacement trains beside a base that stays as it is."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.bitfit import BitFit
from dtheta.adapt.full import Full
from dtheta.core.apply import applied
from dtheta.core.seeds import generator


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.LayerNorm(8), nn.Flatten(), nn.Linear(32, 5))


def test_every_parameter_by_default_and_biases_with_bitfit():
    base = model()
    names = [n for n, _ in base.named_parameters()]
    adapter = attach(base, Full())
    assert list(adapter.sites) == names
    adapter.detach()
    adapter = attach(base, BitFit())
    assert list(adapter.sites) == ["0.bias", "1.bias", "3.bias"]
    adapter.detach()


def test_steps_are_those_of_ordinary_fine_tuning():
    base, x = model(), torch.randn(6, 3, 10, generator=generator(0, "x"))
    tuned, before = copy.deepcopy(base), copy.deepcopy(base.state_dict())
    adapter = attach(base, Full())
    for net, parameters in ((tuned, tuned.parameters()), (adapter, adapter.trainable().values())):
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        for _ in range(3):
            net(x).sin().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(adapter(x), tuned(x), rtol=1e-5, atol=1e-6)
    delta = adapter.delta()
    adapter.detach()
    assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items())
    with applied(base, delta):
        torch.testing.assert_close(base(x), tuned(x), rtol=1e-5, atol=1e-6)


def test_dtype_of_the_displacement():
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        adapter = attach(model().to(dtype), Full())
        assert {p.dtype for p in adapter.trainable().values()} == {expected}
        adapter.detach()
