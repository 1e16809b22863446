"""Plain references: random kernels with known features, refits one by one, gradient descent step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.kernels.dynamics import Average, KernelDynamics, KernelPredictor, kernel_dynamics


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=generator(0, f"{name}{shape}"), dtype=torch.float64)


def features(examples: int, outputs: int, parameters: int, decay: float = 3.0) -> Tensor:
    """Gradients (n, o, P) of a linear model whose kernel has a spectrum over some decades."""
    scale = torch.logspace(0, -decay / 2, parameters, dtype=torch.float64)
    return normal(examples, outputs, parameters, name="features") * scale


def full_kernel(a: Tensor, b: Tensor) -> Tensor:
    """(n, o, P), (m, o, P) -> (n, m, o, o)."""
    return torch.einsum("iap,jbp->ijab", a, b)


def refits(
    kernel: Tensor, y: Tensor, start: Tensor, average: Average, train: Callable[[KernelDynamics], KernelPredictor]
) -> Tensor:
    """Predictions (n, o) of n models, each trained without one example."""
    found = []
    for i in range(y.shape[0]):
        rest = [j for j in range(y.shape[0]) if j != i]
        dynamics = kernel_dynamics(kernel[rest][:, rest], y[rest], start[rest], average=average)
        found.append(train(dynamics).predict(kernel[[i]][:, rest], start[[i]]))
    return torch.cat(found)


def descend(
    J: Tensor, y: Tensor, start: Tensor, divisor: float, rate: float, steps: int, momentum: float = 0.0
) -> Tensor:
    """Parameters (P,) after torch.optim.SGD on |J theta + start - y|^2 / (2 divisor); J (n, o, P)."""
    theta = torch.zeros(J.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=rate, momentum=momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (J @ theta + start - y).square().sum() / (2 * divisor)
        loss.backward()
        optimizer.step()
    return theta.detach()
