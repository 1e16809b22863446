"""Plain references: duals by quadrature, and the kernels of finite networks by automatic differentiation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def smooth_dual(function: Function, p: float, q: float, c: float, nodes: int = 160) -> float:
    """E[s(u) s(v)] by Gauss-Hermite quadrature in two variables."""
    x, weight = (torch.from_numpy(v) for v in np.polynomial.hermite.hermgauss(nodes))
    u = (math.sqrt(2 * p) * x)[:, None]
    v = c * math.sqrt(2 / p) * x[:, None] + math.sqrt(2 * (q - c * c / p)) * x[None]
    return float((function(u) * function(v) * weight[:, None] * weight[None]).sum() / math.pi)


def homogeneous_dual(function: Function, degree: int, p: float, q: float, c: float) -> float:
    """E[s(u) s(v)] for s(t x) = t^degree s(x), t > 0: an integral over the angle, between the kinks."""
    theta = math.acos(c / math.sqrt(p * q))
    kinks = sorted({(k % (2 * math.pi)) for k in (math.pi / 2, -math.pi / 2, theta + math.pi / 2, theta - math.pi / 2)})
    x, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(60))
    total = 0.0
    for start, stop in zip(kinks, [*kinks[1:], kinks[0] + 2 * math.pi], strict=True):
        phi = (stop - start) / 2 * x + (stop + start) / 2
        values = function(phi.cos()) * function((phi - theta).cos())
        total += float((values * weight).sum()) * (stop - start) / 2
    radial = {0: 1.0, 1: 2.0}[degree] * math.sqrt(p * q) ** degree
    return radial * total / (2 * math.pi)


def finite_kernels(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the outputs, and of their gradients, of one network with one output: (N, N) each."""
    parameters = list(network.parameters())
    outputs = network(x).squeeze(1)
    rows = [torch.autograd.grad(one, parameters, retain_graph=True) for one in outputs]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return torch.outer(outputs.detach(), outputs.detach()), J @ J.mT


def label(spec: object) -> str:
    """Return the name of a spec that is the same in every process: without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(spec))
