"""Random features in complex numbers, straight from their definition, and points to try them at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtheta.core.features import Draws, RandomFeatures
from dtheta.core.seeds import generator

SPLITS = {  # function -> the splits it has
    "exp": ("symmetric", "positive"),
    "sin": ("symmetric", "x-trig", "w-trig"),
    "cos": ("symmetric", "x-trig", "w-trig"),
    "gaussian": ("symmetric", "x-trig", "w-trig"),
    "tanh": ("symmetric",),
    "gelu": ("symmetric",),
}
PAIRS = [(function, split) for function, splits in SPLITS.items() for split in splits]


def points(inputs: int, norm: float, count: int = 3, name: str = "x") -> Tensor:
    """Return ``count`` random vectors of a norm, float64."""
    found = torch.randn(count, inputs, generator=generator(0, name), dtype=torch.float64)
    return found * (norm / found.norm(dim=1, keepdim=True))


def lam(g: Tensor, z: Tensor, A: float) -> Tensor:
    """Return Lam_g(z) (N, m) for z (N, m, d), a complex vector for every draw."""
    exponent = -A * g.square().sum(1) + math.sqrt(1 + 4 * A) * (g * z).sum(2) - (z * z).sum(2) / 2
    return (1 + 4 * A) ** (g.shape[1] / 4) * torch.exp(exponent)


def draw_estimates(features: RandomFeatures, x: Tensor, W: Tensor, b: Tensor, draws: Draws | None = None) -> Tensor:
    """Return every draw's estimate T (N, l, m) of f(w.x + b), without the linear part."""
    rows, omega, _ = features.draws() if draws is None else draws
    spectrum, power = features.spectrum, {"x-trig": 1.0, "w-trig": 0.0}.get(features.split, 0.5)
    assert spectrum is not None
    a = torch.ones_like(omega) + 0j if spectrum.real else 1j * omega
    rho, eta = features.balance * a**power, a ** (1 - power) / features.balance
    c = spectrum.turn * spectrum.log_weights(omega, features.tilt).exp()
    estimates = []
    for g in (rows, -rows)[: 1 + bool(features.antithetic)]:
        P, Q = (lam(g, z[:, None] * r[:, None], features.A) for z, r in ((x, rho), (W, eta)))
        center = lam(g, torch.zeros(1, 1, g.shape[1]), features.A)[0] ** 2 if spectrum.centered else 0.0
        estimates.append((c * (torch.exp(a * b[:, None]) * P[:, None] * Q - center)).real)
    return torch.stack(estimates).mean(0)


def linear_part(features: RandomFeatures, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return the part of f that is exact, (N, l)."""
    return (features.spectrum.slope if features.spectrum else 0.0) * (x @ W.mT + b)
