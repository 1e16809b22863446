"""study: outputs that depend on the examples beside them are refused, in whichever direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dtheta.errors import UnsupportedLayer
from dtheta.kernels.tangent import tangent_kernel
from dtheta.kernels.tangent_products import tangent_operator
from tests.unit.kernels.tangent_models import N, drawn
from tests.unit.kernels.tangent_small import Small, check, small


class Recurrent(nn.Module):
    """An LSTM that takes its first axis, which holds the examples, for time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(4, 3).double(), nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def forth(m: Small, x: Tensor) -> Tensor:
    return m.l(x).cumsum(0)


def back(m: Small, x: Tensor) -> Tensor:
    return m.l(x).flip(0).cumsum(0).flip(0)


def middle(m: Small, x: Tensor) -> Tensor:
    y = m.l(x)
    return torch.cat([y[:1], y[1:2] + y[:1], y[2:]])


@pytest.mark.parametrize("forward", [forth, back, middle])
@pytest.mark.parametrize("count", [2, N])
def test_examples_that_mix_in_one_direction(forward, count: int) -> None:
    model, x = small(forward), drawn(count, 4)
    with pytest.raises(UnsupportedLayer, match="mixes the batch"):
        tangent_kernel(model, x)
    with pytest.raises(UnsupportedLayer, match="mixes the batch"):
        tangent_kernel(model, drawn(1, 4, name="one"), x)
    for chunk in (1, 64):
        with pytest.raises(UnsupportedLayer, match="mixes the batch"):
            tangent_operator(model, x, chunk=chunk)


def test_a_recurrent_network_over_the_examples() -> None:
    with pytest.raises(UnsupportedLayer, match="batch_first=True"):
        tangent_kernel(Recurrent(), drawn(N, 5, 4))


def test_examples_on_an_axis_that_a_convolution_runs_over() -> None:
    layer = nn.Conv2d(1, 2, (1, 3)).double()
    model = nn.Sequential(layer)
    model.forward = lambda x: layer(x[None, None]).mean(3)[0].mT  # type: ignore[method-assign]
    assert any("another axis" in warning for warning in check(model, drawn(N, 6)))


def test_each_of_three_examples_goes_once_alone_and_once_among_them() -> None:
    """Passes over a large model are what a study costs."""
    passes: list[int] = []

    def counted(m: Small, x: Tensor) -> Tensor:
        passes.append(len(x))
        return m.head(x @ m.w)

    tangent_kernel(small(counted), drawn(7, 4))
    assert sorted(passes) == [1, 1, 1, 3, 7]
    passes.clear()
    tangent_operator(small(counted), drawn(7, 4))
    assert sorted(passes) == [1, 1, 1, 3]
