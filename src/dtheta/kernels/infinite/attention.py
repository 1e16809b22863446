"""Self-attention in the one form whose infinite width has a closed kernel (Hron et al. 2020).

Queries and keys share their weights and their products are divided by the number of keys' units, not by its root. At
infinite width the attention weights are then fixed numbers, Z = softmax over t of W_key_std^2 cov(x[s], x[t]), and

    nngp <- (W_value_std W_out_std)^2 Z nngp Z'^T + b_std^2
    ntk  <- (W_value_std W_out_std)^2 Z ntk  Z'^T + 2 (nngp - b_std^2) + b_std^2      (nngp: the new one)

where the 2 is the gradients of values and of outputs; those of keys vanish. A transformer divides by the root, has
random attention weights at any width and no such kernel: for a pretrained one take ``dt.tangent_kernel``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dtheta.errors import ShapeMismatch
from dtheta.kernels.infinite.kernel import Kernel
from dtheta.kernels.infinite.layer import Draw, Layer, Shape, Units
from dtheta.kernels.infinite.weights import check_std, drawn, weights


@dataclass(frozen=True)
class Attention(Layer):
    """Self-attention over all places, with queries tied to keys and scores divided by the number of keys' units.

    Attributes:
        W_key_std: Standard deviation of the weights of keys (and queries), times sqrt(channels).
        W_value_std: Of the weights of values.
        W_out_std: Of the weights of the outputs.
        b_std: Of the biases of the outputs; 0 for none.

    Raises:
        ConfigError: If a deviation of weights is not above 0, or ``b_std`` is negative.
    """

    W_key_std: float = 1.0
    W_value_std: float = 1.0
    W_out_std: float = 1.0
    b_std: float = 0.0
    weighted = True

    def __post_init__(self) -> None:
        for W_std in (self.W_key_std, self.W_value_std, self.W_out_std):
            check_std(W_std, self.b_std, "Attention")

    def full_before(self, after: bool) -> bool:
        """Tell that pairs of different places are needed."""
        return True

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        if not kernel.places:
            raise ShapeMismatch(f"{self} stands on plain vectors; expected inputs (N, channels, tokens)")
        Z, Z2 = (torch.softmax(self.W_key_std**2 * own, -1) for own in (kernel.first, kernel.second))
        square, bias = (self.W_value_std * self.W_out_std) ** 2, self.b_std**2

        def attended(values: Tensor, left: Tensor, right: Tensor) -> Tensor:
            return (left @ values @ right.mT).mul_(square)

        nngp = attended(kernel.nngp, Z[:, None], Z2[None]).add_(bias)
        first, second = attended(kernel.first, Z, Z).add_(bias), attended(kernel.second, Z2, Z2).add_(bias)
        ntk = None
        if kernel.ntk is not None:
            ntk = attended(kernel.ntk, Z[:, None], Z2[None]).add_(nngp, alpha=2).sub_(bias)
        return replace(kernel, nngp=nngp, ntk=ntk, first=first, second=second, gaussian=True).with_diagonal()

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        if len(inputs) < 2:
            raise ShapeMismatch(f"{self} stands on plain vectors; expected inputs (channels, tokens)")
        return FiniteAttention(self, inputs[0], units, draw), (units.last, *inputs[1:])


class FiniteAttention(nn.Module):
    """The finite layer: one head, with keys and values of the network's width."""

    def __init__(self, layer: Attention, channels: int, units: Units, draw: Draw) -> None:
        super().__init__()
        width, outputs = units
        key, value = (nn.Linear(channels, width, bias=False, device="meta") for _ in range(2))
        out = nn.Linear(width, outputs, bias=layer.b_std != 0, device="meta")
        self.key = drawn(key, draw.at("key"))
        self.value = weights(value, channels, layer.W_value_std, 0.0, draw.at("value"))
        self.out = weights(out, width, layer.W_out_std, layer.b_std, draw.at("out"))
        self.score = layer.W_key_std / math.sqrt(channels * width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (N, units, *places) of inputs (N, channels, *places)."""
        tokens = x.flatten(2).mT
        keys = self.key(tokens) * self.score
        attended = torch.softmax(keys @ keys.mT, -1) @ self.value(tokens)
        return self.out(attended).mT.reshape(len(x), -1, *x.shape[2:])
