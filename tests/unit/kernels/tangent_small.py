"""One-layer models whose forward is given, and the check of their kernel against the definition."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.errors import DthetaWarning
from dtheta.kernels.tangent import tangent_kernel
from tests.unit.kernels.tangent_reference import error, jacobian, kernel, trained


class Small(nn.Module):
    """A vector p (4,), a matrix w (4, 4), a table (8, 4), a scalar t, and a head; ``forward`` as given."""

    cache: Tensor

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.p, self.w = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 4))
        self.table, self.t = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.tensor(0.7))
        self.l = nn.Linear(4, 2)
        self.register_buffer("cache", torch.zeros(16, 4))
        self._forward = forward
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)

    def head(self, h: Tensor) -> Tensor:
        return self.l(torch.tanh(h))


def small(forward: Callable[[Any, Tensor], Tensor]) -> Small:
    return Small(forward).eval()


def check(model: nn.Module, x: Tensor, x2: Tensor | None = None, **settings: Any) -> list[str]:
    """Compare all ways to take the kernel with its definition; return what was warned of."""
    J = jacobian(model, x, trained(model), len(x))
    J2 = None if x2 is None else jacobian(model, x2, trained(model), len(x2))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", DthetaWarning)
        for outputs in ("full", "mean"):
            for memory in (2**30, 3000):
                K = tangent_kernel(model, x, x2, outputs, chunk=3, memory=memory, **settings)  # type: ignore[arg-type]
                assert error(K, kernel(J, outputs, J2)) < 1e-11
    return [str(one.message) for one in found]
