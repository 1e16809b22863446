"""sweeps: two sides that use other entries of a parameter meet in all of its entries."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.nn import functional as F

from dtheta.errors import UnsupportedLayer
from dtheta.kernels.tangent import tangent_kernel
from tests.unit.kernels.tangent_models import drawn
from tests.unit.kernels.tangent_small import Small, check, small


def from_the_end(m: Small, x: Tensor) -> Tensor:
    return m.head(x + m.table[-x.shape[1] :]).mean(1)


def from_the_start(m: Small, x: Tensor) -> Tensor:
    return m.head(x + m.table[: x.shape[1]]).mean(1)


def some_columns(m: Small, x: Tensor) -> Tensor:
    return m.head(F.linear(x[..., 0], m.table[:4, :1].expand(4, x.shape[1]) + m.w[:, : x.shape[1]].sum()))


def narrow_inputs(m: Small, x: Tensor) -> Tensor:
    return m.head(F.linear(x[:, :, 0], m.table.T[:, : x.shape[1]]))


def only_in_long_ones(m: Small, x: Tensor) -> Tensor:
    return m.head(x + (m.p if x.shape[1] > 5 else 0)).mean(1)


@pytest.mark.parametrize("forward", [from_the_end, from_the_start, some_columns, narrow_inputs, only_in_long_ones])
@pytest.mark.parametrize(("first", "second"), [(5, 6), (6, 5), (5, 5)])
def test_two_sides_of_other_lengths(forward, first: int, second: int) -> None:
    check(small(forward), drawn(5, first, 4), drawn(4, second, 4, name="x2"))


def test_the_two_sides_of_other_lengths_are_sketched_alike() -> None:
    model, x, x2 = small(from_the_end), drawn(5, 5, 4), drawn(4, 6, 4, name="x2")
    wanted = tangent_kernel(model, x, x2)
    rough = tangent_kernel(model, x, x2, method="sketch", width=1 << 16)
    assert float((rough - wanted).abs().max() / wanted.abs().max()) < 0.1


def test_entries_that_change_with_the_examples_are_refused() -> None:
    def forward(m: Small, x: Tensor) -> Tensor:
        start = 3 if bool((x > 100).any()) else 0
        return m.head(x.clamp(max=100) * m.table.flatten()[start : start + 4])

    x = drawn(6, 4)
    x[4] = 200
    with pytest.raises(UnsupportedLayer, match="other entries of it"):
        tangent_kernel(small(forward), x, chunk=3)
