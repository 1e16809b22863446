"""A feed-forward block cut down to some of its own neurons, with a linear path beside them, refitted in closed form.

    y = V f(W_S x + b_S) + L x + c          S some of the block's neurons; V, L, c by ridge regression

Random features know nothing of the block; its own neurons are features that were learned for this very output. Which of
them, is decided on calibration data, by Gram matrices alone, so that any number of examples can be used:

    pivoted   next is the neuron with the largest part outside the span of those already chosen (QR with pivoting)
    greedy    next is the neuron that lowers the error of the outputs most (orthogonal least squares; Chen, Billings and
              Luo 1989): r_j the part of neuron j outside the span, maximize |Y^T r_j|^2 / |r_j|^2

Both are one Cholesky factorization with pivoting of the Gram matrix of the neurons, after the linear path and the
constant have been eliminated from it; they differ in the pivot. Not in a paper; measured in bench/snnk.py.

Shape legend: d inputs, h hidden neurons, m of them chosen, D outputs.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.kernels.feed_forward import Activation, Affine, FeedForward, linear
from dtheta.kernels.ridge import Ridge
from dtheta.kernels.ridge_path import RidgeFit

Pivot = Literal["greedy", "pivoted"]
_DEPENDENT = 1e-10  # share of a neuron's variance below which the rest of it is rounding


class OwnNeurons(nn.Module):
    """Some neurons of a feed-forward block and a linear path; see the module's docstring.

    Attributes:
        up: ``nn.Linear`` (d, m), the neurons' own rows.
        gate: ``nn.Linear`` (d, m), or None where the block has no gate.
        down: ``nn.Linear`` (m, D) with bias.
        skip: ``nn.Linear`` (d, D) without bias, or None.
        neurons: Numbers of the neurons in the block (m,); a buffer, kept in the state dict.
    """

    neurons: Tensor

    def __init__(self, block: FeedForward, neurons: Int[Tensor, " m"], fit: RidgeFit, skip: bool) -> None:
        """Take ``neurons`` of ``block``, and weights of ``fit`` on these, then on the inputs if ``skip``."""
        super().__init__()
        m, like = neurons.numel(), block.up.weight
        self.up = linear(_rows(block.up, neurons))
        self.gate = None if block.gate is None else linear(_rows(block.gate, neurons))
        self.down = linear(Affine(fit.weight[:, :m].to(like), fit.bias.to(like)))
        self.skip = linear(Affine(fit.weight[:, m:].to(like), fit.bias.to(like)), bias=False) if skip else None
        self.activation: Activation = block.activation
        self.register_buffer("neurons", neurons.clone())

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... D"]:
        """Return the outputs."""
        hidden = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        output = self.down(hidden)
        return output if self.skip is None else output + self.skip(x)


def _rows(part: Affine, index: Tensor) -> Affine:
    return Affine(part.weight[index], part.bias[index])


def choose_neurons(joint: Ridge, hidden: int, width: int, *, skip: bool = True, pivot: Pivot = "greedy") -> Tensor:
    """Choose neurons by what was seen of them.

    Args:
        joint: Sums whose features are the block's ``hidden`` neurons, then its inputs; the targets are its outputs.
        hidden: h.
        width: How many to choose.
        skip: Whether a linear path stands beside them: then only what it cannot do counts.
        pivot: "greedy" or "pivoted", see the module's docstring.

    Returns:
        Numbers of the chosen (m,), ascending. Fewer than ``width`` where the rest depend on them linearly.

    Raises:
        ConfigError: For more neurons than there are, or an unknown pivot.
    """
    if not 1 <= whole(width, "width") <= hidden:
        raise ConfigError(f"width={width} must lie between 1 and {hidden}, the neurons of the block")
    if pivot not in ("greedy", "pivoted"):
        raise ConfigError(f"pivot is {pivot!r}; expected 'greedy' or 'pivoted'")
    gram, cross, _ = joint.centered()
    K, C = gram[:hidden, :hidden], cross[:hidden]
    if skip:
        K, C = _eliminated(gram, cross, hidden)
    return _pivots(K, C, gram.diagonal()[:hidden], width, pivot).sort().values


def _eliminated(gram: Tensor, cross: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Return the sums of what the inputs leave of the neurons; inputs that never vary are left out by their zeros."""
    values, Q = torch.linalg.eigh(gram[hidden:, hidden:])
    usable = values > _DEPENDENT * values.max()
    root = Q[:, usable] / values[usable].sqrt()
    part_hd = gram[:hidden, hidden:] @ root
    return gram[:hidden, :hidden] - part_hd @ part_hd.mT, cross[:hidden] - part_hd @ (root.mT @ cross[hidden:])


def _pivots(K: Tensor, cross: Tensor, variances: Tensor, width: int, pivot: Pivot) -> Tensor:
    """Cholesky with pivoting, ``width`` steps at most; ``variances`` (h,) tell what of a neuron is rounding."""
    left, C = K.diagonal().clone(), cross.clone()
    L = K.new_zeros(len(K), width)
    chosen: list[int] = []
    for k in range(width):
        independent = left > _DEPENDENT * variances
        independent[chosen] = False
        if not bool(independent.any()):
            break
        worth = left if pivot == "pivoted" else C.square().sum(1) / left
        j = int(torch.where(independent, worth, -torch.inf).argmax())
        root = left[j].sqrt()
        L[:, k] = (K[:, j] - L[:, :k] @ L[j, :k]) / root
        left -= L[:, k].square()
        C = torch.addr(C, L[:, k], C[j] / root, alpha=-1)
        chosen.append(j)
    return torch.tensor(chosen, dtype=torch.int64, device=K.device)
