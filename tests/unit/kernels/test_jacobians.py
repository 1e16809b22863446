"""jacobians: parameters without an axis, batches that hold more than examples, two objects on one memory."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from dtheta.errors import DthetaWarning, UnsupportedLayer
from dtheta.kernels.tangent import tangent_kernel
from tests.unit.kernels.tangent_models import drawn
from tests.unit.kernels.tangent_reference import error, jacobian, kernel, trained
from tests.unit.kernels.tangent_small import Small, check, small


def scaled(m: Small, x: Tensor) -> Tensor:
    return m.head(x * m.t + m.t * m.t) * m.t


@pytest.mark.parametrize("method", ["auto", "jacobian"])
def test_a_parameter_without_an_axis(method: str) -> None:
    check(small(scaled), drawn(7, 4), method=method)


@pytest.mark.parametrize("method", ["auto", "jacobian"])
@pytest.mark.parametrize("length", [3, 4])
def test_what_is_as_long_as_a_chunk_is_no_example(method: str, length: int) -> None:
    """The study takes three examples, and a chunk four; the batch has eight."""

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.slope = nn.Parameter(torch.randn(length, dtype=torch.float64))  # einsum has no rule
            self.layer = nn.Linear(length, 2).double()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(torch.tanh(torch.einsum("nd,d->nd", x, self.slope)) * scale)

    model, batch = Weighted(), {"x": drawn(8, length), "scale": drawn(length, name="scale")}
    wanted = kernel(jacobian(model, batch, trained(model), 8), "mean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DthetaWarning)
        found = tangent_kernel(model, batch, method=method, chunk=4)  # type: ignore[arg-type]
    assert error(found, wanted) < 1e-12


def test_two_objects_on_one_memory_are_refused() -> None:
    model = small(lambda m, x: m.head(x @ m.w))
    model.twin = nn.Parameter(model.w.data)
    with pytest.raises(UnsupportedLayer, match="same memory"):
        tangent_kernel(model, drawn(7, 4))
    model.twin = model.w
    check(model, drawn(7, 4))
