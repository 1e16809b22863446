"""The recursion of cosines: the same kernels as layer by layer."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.kernels.infinite import Abs, ARelu, Dense, Erf, Identity, LeakyRelu, Relu, infinite_kernel, serial
from dtheta.kernels.infinite.cosine import cosines
from tests.unit.kernels.infinite.plain import label

X = torch.randn(11, 5, generator=generator(0, "x"), dtype=torch.float64)
X[3] = 0
X[4] = 2 * X[5]
ACTIVATIONS = [Relu(), LeakyRelu(0.2), Abs(), ARelu(-0.5, 2.0), ARelu(1.5, 1.5)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=label)
@pytest.mark.parametrize("other", [None, X[2:8] + 0.1])
@pytest.mark.parametrize("tile", [None, 4])
def test_it_gives_the_kernels_of_the_layers(activation, other, tile):
    layers = (Dense(1.3), activation, serial(Dense(0.9), activation), Dense(1.1))
    assert cosines(serial(*layers), 5) is not None and cosines(serial(*layers, Identity()), 5) is None
    fast, plain = (
        infinite_kernel(s, X, other, get="both", tile=tile) for s in (serial(*layers), serial(*layers, Identity()))
    )
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-7, atol=1e-13
        )  # the angle of two parallel vectors has half of the digits
    for which in ("nngp", "ntk"):
        alone = infinite_kernel(serial(*layers), X, other, get=which, tile=tile)
        torch.testing.assert_close(alone, getattr(fast, which), rtol=1e-14, atol=0)


def test_an_example_with_itself_is_exact_at_any_depth():
    spec = serial(Dense(2**0.5), *(layer for _ in range(60) for layer in (Relu(), Dense(2**0.5))))
    for dtype, digits in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        found = infinite_kernel(spec, X, get="both", dtype=dtype)
        square = 2 * X.square().mean(1).to(dtype)
        torch.testing.assert_close(found.nngp.diagonal(), square, rtol=digits, atol=0)
        torch.testing.assert_close(found.ntk.diagonal(), 61 * square, rtol=digits, atol=0)


@pytest.mark.parametrize(
    "layers",
    [
        (Dense(), Relu()),
        (Relu(), Dense()),
        (Dense(b_std=0.1), Relu(), Dense()),
        (Dense(), Erf(), Dense()),
        (Dense(), ARelu(0.0, 0.0), Dense()),
        (Dense(), Dense()),
        (),
    ],
)
def test_other_networks_take_the_layers(layers):
    assert cosines(serial(*layers), 5) is None
