"""SNNK layers and what they stand for: a dense layer, two layers and their bundle, an estimate without training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.seeds import generator
from dtheta.kernels.bundle import bundle
from dtheta.kernels.snnk import SNNKLayer

D, HIDDEN = 768, 3072


def layers() -> tuple[nn.Module, nn.Module]:
    """Return an SNNK layer of 64 ReLU features, and the dense layer and GELU that it stands for."""
    dense = drawn_linear(D, HIDDEN)
    return SNNKLayer.of(dense, "relu", 64), nn.Sequential(dense, nn.GELU())


def bundles(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """Return the bundle of two SNNK layers of 64 ReLU features each, and the two one after the other."""
    up, down = (drawn_linear(*sides).to(dtype) for sides in ((D, HIDDEN), (HIDDEN, D)))
    pair = [SNNKLayer.of(up, "relu", 64), SNNKLayer.of(down, "relu", 64, seed=1)]
    return bundle(pair), nn.Sequential(*pair)


@torch.no_grad()
def bundle_error() -> dict[str, float]:
    """Return the largest difference between a bundle and its layers, relative to the largest output."""
    joined, apart = bundles(torch.float64)
    x_BD = drawn(32, D).double()
    wanted = apart(x_BD)
    return {"error": float((joined(x_BD) - wanted).abs().max() / wanted.abs().max())}


@torch.no_grad()
def estimate_error(draws: int, seed: int) -> float:
    """Return the mean squared error of an untrained layer's estimate of sin(W x)."""
    layer = nn.Linear(32, 64, bias=False)
    x_ND, rows_LD = (0.5 * F.normalize(drawn(n, 32), dim=1) for n in (200, 64))
    layer.weight.copy_(rows_LD)
    return float((SNNKLayer.of(layer, "sin", draws, seed=seed)(x_ND) - torch.sin(layer(x_ND))).square().mean())


def drawn(*shape: int) -> Tensor:
    """Return a normal tensor, the same at every call."""
    return torch.randn(*shape, generator=generator(0, "reproduce/snnk"))


def drawn_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer of drawn weights, the same at every call."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(drawn(outputs, inputs) / inputs**0.5)
        layer.bias.zero_()
    return layer
