"""A feed-forward block whose matrices are cut to a rank, weighted by the data: what any smaller block must beat.

    M = argmin E |W (x - mu) - M (x - mu)|^2, rank r   =>   M = U U^T W,  U the leading left vectors of W cov(x)^(1/2)

and the mean's share of what was cut goes to the bias. Each matrix is cut by the data that it meets in the full block.

Shape legend: d inputs, h hidden neurons, r rank, D outputs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.kernels.feed_forward import Activation, Affine, FeedForward, linear
from dtheta.kernels.ridge import Ridge


class LowRankBlock(nn.Module):
    """A feed-forward block of matrices of rank r.

    Attributes:
        up, down: Two ``nn.Linear`` each, the narrow one first.
        gate: The same, or None where the block has no gate.
    """

    def __init__(self, block: FeedForward, joint: Ridge, rank: int) -> None:
        """Cut ``block`` to ``rank`` by the sums ``joint`` of its neurons, then its inputs.

        Raises:
            ConfigError: For a rank that no matrix of the block has.
        """
        super().__init__()
        most = min(block.inputs, block.hidden_width, block.outputs)
        if not 1 <= whole(rank, "rank") <= most:
            raise ConfigError(f"rank={rank} must lie between 1 and {most}, the full rank of the block's matrices")
        h = block.hidden_width
        gram, mean = joint.centered()[0], joint.means()[0]
        inputs, hidden = (gram[h:, h:], mean[h:]), (gram[:h, :h], mean[:h])
        self.up = _cut(block.up, *inputs, rank)
        self.gate = None if block.gate is None else _cut(block.gate, *inputs, rank)
        self.down = _cut(block.down, *hidden, rank)
        self.activation: Activation = block.activation

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... D"]:
        """Return the outputs."""
        hidden = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        return self.down(hidden)


def _cut(part: Affine, covariance: Tensor, mean: Tensor, rank: int) -> nn.Sequential:
    weight, bias = part.double()
    values, Q = torch.linalg.eigh(covariance)
    U = torch.linalg.svd(weight @ (Q * values.clamp(min=0).sqrt()), full_matrices=False).U[:, :rank]
    narrow = U.mT @ weight
    bias = bias + (weight - U @ narrow) @ mean
    like = part.weight
    return nn.Sequential(
        linear(Affine(narrow.to(like), bias.to(like)), bias=False), linear(Affine(U.to(like), bias.to(like)))
    )
