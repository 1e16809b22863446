"""Finite layers of weights, in NTK parametrization, out of the plain modules of torch.

    y = W_std / sqrt(n) * W a + b_std * b,     W and b ~ N(0, 1),     n inputs of one unit

`weights` wraps nn.Linear and the convolutions with two fixed factors: the module in the middle computes
``W (a W_std / (b_std sqrt n)) + b`` and its outputs are multiplied by b_std. So its own weight and bias are the W and b
of the formula, and whatever knows these modules (hooks, structured tangent kernels) sees exactly their gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dtheta.core.arguments import number
from dtheta.core.seeds import generator, normal
from dtheta.errors import ConfigError
from dtheta.kernels.infinite.layer import Draw


class Scale(nn.Module):
    """Multiplication by a fixed number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return ``factor * x``."""
        return x * self.factor

    def extra_repr(self) -> str:
        """Return what ``print`` shows of it."""
        return f"{self.factor:g}"


def drawn(module: nn.Module, draw: Draw) -> nn.Module:
    """Return a module, made on the device "meta", with parameters drawn from N(0, 1), each keyed by its name.

    Made elsewhere it would have taken its first parameters from the global generator.
    """
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            source = generator(draw.seed, f"{draw.place}.{name}")
            parameter.copy_(normal(parameter.shape, 1.0, source))
    return module


def weights(module: nn.Module, fan_in: int, W_std: float, b_std: float, draw: Draw) -> nn.Sequential:
    """Return a layer of weights between its two factors; ``module`` has a bias only if ``b_std`` is not 0."""
    outer = b_std or 1.0
    return nn.Sequential(Scale(W_std / (outer * math.sqrt(fan_in))), drawn(module, draw), Scale(outer))


def check_std(W_std: float, b_std: float, what: str) -> None:
    """Check standard deviations of weights and biases.

    Raises:
        ConfigError: If one is negative or no number, or the weights' is 0.
        NonFinite: If one is NaN or infinite.
    """
    if number(W_std, f"W_std of {what}") <= 0:
        raise ConfigError(f"W_std of {what} is {W_std}; expected a number above 0")
    if number(b_std, f"b_std of {what}") < 0:
        raise ConfigError(f"b_std of {what} is {b_std}; expected 0 or more")
