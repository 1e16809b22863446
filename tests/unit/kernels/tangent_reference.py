"""The tangent kernel by its definition: one example, one output, one call of autograd at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.fit.batch import taken
from dtheta.kernels.outputs import logits


def jacobian(
    model: nn.Module, batch: Any, parameters: Sequence[Tensor], examples: int, function: Callable[..., Tensor] = logits
) -> Tensor:
    """Return J (N, O, P), the examples one by one, all parameters side by side."""
    rows = []
    for n in range(examples):
        f = function(model, taken(batch, slice(n, n + 1))).reshape(-1)
        found = [torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) for value in f]
        rows.append(torch.stack([_flat(gradients, parameters) for gradients in found]))
    return torch.stack(rows).detach().double()


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def kernel(J: Tensor, outputs: str, J2: Tensor | None = None) -> Tensor:
    """Return the kernel of two Jacobians, as ``tangent_kernel`` orders it."""
    J2 = J if J2 is None else J2
    if outputs == "pseudo":
        return (J.sum(1) @ J2.sum(1).mT) / J.shape[1]
    full = torch.einsum("nop,mqp->nmoq", J, J2)
    return full if outputs == "full" else full.diagonal(dim1=2, dim2=3).mean(2)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that train, each once."""
    return list({id(p): p for p in model.parameters() if p.requires_grad}.values())


def error(K: Tensor, wanted: Tensor) -> float:
    """Return the largest error relative to the largest entry."""
    return float((K - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))
