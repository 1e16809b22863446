"""The study of a tangent kernel: the kernel against an explicit Jacobian, the model given back, a delta in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.errors import ConfigError
from dtheta.kernels.closed_form import solve_head
from dtheta.scout.head import directions
from dtheta.scout.kernel_study import figures, study_kernel

N, D, C = 20, 5, 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(D, 6), nn.Linear(6, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(x)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(N, D), torch.arange(N) % C)]


def plain_kernel(net: Net, x: torch.Tensor, y: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """LoRA at its start: only B moves, dW = B A, along two orthonormal directions of a solved head."""
    h = torch.tanh(net.inner(x)).double()
    head = solve_head(h, torch.nn.functional.one_hot(y, C).double())
    along = directions(C, 2, 0) @ head.weight
    slope = (1 - h**2)[:, None, :] * along  # (N, O, 6)
    inputs = x.double() @ A.double().mT
    gradients = slope[:, :, :, None] * inputs[:, None, None, :]
    J = gradients.reshape(N, 2, -1)
    return torch.einsum("nop,mop->nm", J, J) / 2


def test_the_kernel_is_that_of_an_explicit_jacobian(net: Net, data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    x, y = data[0]
    before = {name: p.clone() for name, p in net.named_parameters()}
    found = study_kernel(net, data, LoRA(rank=2), "inner.weight", examples=N)
    adapter = attach(net, LoRA(rank=2), "inner.weight")
    A = next(p for name, p in adapter.trainable().items() if name.endswith("right")).detach()
    adapter.detach()
    torch.testing.assert_close(found.kernel, plain_kernel(net, x, y, A).detach(), rtol=1e-5, atol=1e-8)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_a_delta_takes_the_place_of_a_method(net: Net, data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    adapter = attach(net, LoRA(rank=2), "inner.weight")
    for p in adapter.trainable().values():
        p.data += 0.1
    delta = adapter.delta()
    adapter.detach()
    one = study_kernel(net, data, delta, examples=N)
    two = study_kernel(net, data, LoRA(rank=2), "inner.weight", examples=N)
    assert one.kernel.shape == two.kernel.shape and not torch.allclose(one.kernel, two.kernel)


def test_a_head_that_is_not_there_is_named(data: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with pytest.raises(ConfigError, match="no head"):
        study_kernel(nn.Sequential(nn.Linear(D, C)), data, LoRA(rank=1))


def test_a_kernel_of_zeros_has_figures() -> None:
    labels = torch.arange(8) % 2
    found = figures(torch.zeros(8, 8, dtype=torch.float64), torch.eye(8, dtype=torch.float64), labels, 2, 1)
    assert found.alignment == 0.0 and found.rank == 0 and found.trace == 0.0


def test_a_kernel_that_tells_no_examples_apart_has_figures() -> None:
    labels = torch.arange(8) % 2
    found = figures(torch.full((8, 8), 0.1, dtype=torch.float64), torch.eye(8, dtype=torch.float64), labels, 2, 1)
    assert found.alignment == 0.0 and found.rank == 1 and found.trace == pytest.approx(0.1)
