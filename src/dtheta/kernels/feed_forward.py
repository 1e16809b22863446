"""A pretrained feed-forward block as the matrices that it is made of, whatever modules hold them.

    plain    y = W2 f(W1 x + b1) + b2
    gated    y = W2 (f(Wg x + bg) * (W1 x + b1)) + b2        Llama and its kin

Shape legend: d inputs, h hidden neurons, D outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.selection import has_plain_forward
from dtheta.errors import ShapeMismatch, UnsupportedLayer

Activation = Callable[[Tensor], Tensor]


class Affine(NamedTuple):
    """A linear map with its bias: weight (rows, columns), bias (rows,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Float[Tensor, "... columns"]) -> Float[Tensor, "... rows"]:
        """Return W x + b."""
        return F.linear(x, self.weight, self.bias)

    def double(self) -> Affine:
        """Return it in float64."""
        return Affine(self.weight.double(), self.bias.double())


@dataclass(frozen=True, eq=False)
class FeedForward:
    """A feed-forward block.

    Attributes:
        up: W1 (h, d) and b1.
        down: W2 (D, h) and b2.
        activation: f, elementwise.
        gate: Wg (h, d) and bg, or None where the block has no gate.
    """

    up: Affine
    down: Affine
    activation: Activation
    gate: Affine | None = None

    def __post_init__(self) -> None:
        """Raise ShapeMismatch where the matrices do not follow one another."""
        rows, columns = self.up.weight.shape
        if self.gate is not None and self.gate.weight.shape != self.up.weight.shape:
            raise ShapeMismatch(f"the gate is {tuple(self.gate.weight.shape)}; the up map is {(rows, columns)}")
        if self.down.weight.shape[1] != rows:
            raise ShapeMismatch(f"the down map takes {self.down.weight.shape[1]} neurons; the up map gives {rows}")

    @staticmethod
    def of(up: nn.Module, down: nn.Module, activation: Activation, gate: nn.Module | None = None) -> FeedForward:
        """Read a block off its modules; nothing is copied where the layout allows.

        Args:
            up: The layer before the activation: ``nn.Linear``, or transformers' ``Conv1D``.
            down: The layer after it.
            activation: f.
            gate: The gate's layer, whose output f acts on; None where ``up``'s output is what f acts on.

        Raises:
            UnsupportedLayer: For a layer that is neither.
            ShapeMismatch: If they do not fit together.
        """
        return FeedForward(affine(up), affine(down), activation, None if gate is None else affine(gate))

    @property
    def inputs(self) -> int:
        """Of one input: d."""
        return self.up.weight.shape[1]

    @property
    def hidden_width(self) -> int:
        """Of the layer before the activation: h."""
        return self.up.weight.shape[0]

    @property
    def outputs(self) -> int:
        """D."""
        return self.down.weight.shape[0]

    @property
    def parameters(self) -> int:
        """Numbers that the block holds; a bias that its layers lack does not count, nor does one of zeros."""
        parts = [part for part in (self.up, self.down, self.gate) if part is not None]
        return sum(part.weight.numel() + part.bias.numel() * bool(part.bias.any()) for part in parts)

    def hidden(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... h"]:
        """Return the activations of the neurons, what the down map acts on."""
        if self.gate is None:
            return self.activation(self.up(x))
        return self.activation(self.gate(x)) * self.up(x)

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... D"]:
        """Return the outputs."""
        return self.down(self.hidden(x))


def affine(module: nn.Module) -> Affine:
    """Return a linear layer's weight (rows, columns), a view where its layout allows, and its bias, zeros for none.

    Raises:
        UnsupportedLayer: If it is no ``nn.Linear`` and no transformers' ``Conv1D``.
    """
    if not has_plain_forward(module) or isinstance(module, nn.Embedding):
        raise UnsupportedLayer(
            f"a {type(module).__name__} was given as a layer of a feed-forward block; expected nn.Linear or "
            "transformers' Conv1D"
        )
    weight: Tensor = module.weight.detach()  # type: ignore[assignment, operator]
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    if not weight.is_floating_point():
        raise UnsupportedLayer(f"the weight of a {type(module).__name__} is {weight.dtype}; dequantize it first")
    weight = weight if isinstance(module, nn.Linear) else weight.mT  # Conv1D computes x @ W
    return Affine(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach())


def linear(part: Affine, bias: bool = True) -> nn.Linear:
    """Return a layer with these numbers, copied; no random draw is made."""
    rows, columns = part.weight.shape
    layer = nn.Linear(columns, rows, bias=bias, device="meta")
    layer.weight = nn.Parameter(part.weight.detach().clone(memory_format=torch.contiguous_format))
    if bias:
        layer.bias = nn.Parameter(part.bias.detach().clone())
    return layer
