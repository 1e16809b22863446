"""Finite networks of every layer: their mean kernels are the infinite ones, within the error of the draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.infinite import (
    Attention,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    Relu,
    Sin,
    fully_connected,
    infinite_kernel,
    parallel,
    residual,
    serial,
)
from dtheta.kernels.infinite.weights import Scale
from tests.unit.kernels.infinite.plain import finite_kernels

STD = {"W_std": 1.4, "b_std": 0.2}
DENSE = Dense(**STD)


def conv(window=3, strides=1, padding="same"):
    return Conv(window, strides, padding, **STD)


VECTORS = {
    "tanh": serial(DENSE, Elementwise(torch.tanh), DENSE),
    "sin": serial(DENSE, Sin(1.0, 0.5), DENSE),
    "layer norm": serial(DENSE, LayerNorm(), Relu(), DENSE),
    "residual": serial(DENSE, residual(Relu(), DENSE), Gelu(), DENSE),
    "parallel": serial(parallel(DENSE, serial(DENSE, Relu(), DENSE)), Relu(), DENSE),
    "parallel at the end": serial(DENSE, Relu(), parallel(DENSE, serial(DENSE, Relu(), DENSE))),
    "dropout": serial(DENSE, Relu(), Dropout(0.3), DENSE),
}
IMAGES = {
    "flatten": serial(conv(), Relu(), Flatten(), DENSE),
    "even window": serial(conv((2, 4)), Relu(), Flatten(), DENSE),
    "strides": serial(conv(3, (2, 1)), Relu(), conv(2, 1, "valid"), Relu(), Flatten(), DENSE),
    "global pool": serial(conv(3, 1, "circular"), Relu(), conv(2, 2, "circular"), Relu(), GlobalAvgPool(), DENSE),
    "pool": serial(conv(), Relu(), AvgPool(2, 1), conv(), Erf(), Flatten(), DENSE),
    "pool with steps": serial(conv(), Relu(), AvgPool((2, 3)), DENSE, Relu(), GlobalAvgPool(), DENSE),
    "norm": serial(conv(), LayerNorm(), Relu(), GlobalAvgPool(), DENSE),
    "attention": serial(DENSE, Relu(), Attention(0.8, 1.2, 1.1, 0.3), Relu(), GlobalAvgPool(), DENSE),
    "attention at the end": serial(DENSE, Relu(), Attention(0.8, 1.2, 1.1, 0.3), GlobalAvgPool()),
    "dropout of places": serial(conv(), Relu(), Dropout(0.3), conv(), Relu(), GlobalAvgPool(), DENSE),
}


@pytest.mark.parametrize("name", [*VECTORS, *IMAGES])
def test_the_mean_kernel_of_finite_networks_is_the_infinite_one(name):
    shape = (3,) if name in VECTORS else (2, 4, 3)
    spec = VECTORS.get(name) or IMAGES[name]
    x = torch.randn(3, *shape, generator=generator(3, "x"))
    draws, width = 40, 64
    with torch.random.fork_rng():  # for the masks of Dropout
        torch.manual_seed(0)
        found = [finite_kernels(spec.network(width, shape, seed=seed), x) for seed in range(draws)]
    for which, limit in infinite_kernel(spec, x, get="both")._asdict().items():
        values = torch.stack([one[which == "ntk"] for one in found]).double()
        error = values.std(0) / draws**0.5
        # 4.5 standard errors, and the bias of a finite width, of order 1 / width
        assert ((values.mean(0) - limit).abs() <= 4.5 * error + 3 / width * limit.abs().max()).all(), which
        assert (error.max() < 0.35 * limit.abs().max()) or which == "nngp"


def test_the_network_is_in_ntk_parametrization():
    network = serial(Dense(1.5, 0.2), Relu(), Dense(0.7, 0.0)).network(4000, 3, outputs=2, seed=5)
    first, last = (m for m in network.modules() if isinstance(m, nn.Linear))
    assert first.bias is not None and last.bias is None and last.weight.shape == (2, 4000)
    for parameter in (first.weight, first.bias):
        assert abs(parameter.mean().item()) < 0.06 and abs(parameter.std().item() - 1) < 0.04
    x = torch.randn(5, 3, generator=generator(0, "x"))
    hidden = 1.5 / 3**0.5 * x @ first.weight.mT + 0.2 * first.bias
    torch.testing.assert_close(network(x), 0.7 / 4000**0.5 * hidden.relu() @ last.weight.mT)


def test_parameters_are_drawn_by_seed_and_place():
    spec = fully_connected(4, Relu(), **STD)
    a, b, other = (spec.network(8, 4, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) and not torch.equal(a[name], other[name]) for name in a)
    weights = [value for name, value in a.items() if value.shape == (8, 8)]
    assert len({float(value.sum()) for value in weights}) == len(weights)


def test_drawing_a_network_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fully_connected(2, Relu()).network(8, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_last_layer_of_weights_has_the_outputs():
    spec = serial(conv(), Relu(), residual(Relu(), conv()), GlobalAvgPool(), DENSE, Relu(), DENSE)
    network = spec.network(6, (2, 4, 3), outputs=5)
    shapes = [tuple(m.weight.shape[:2]) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert shapes == [(6, 2), (6, 6), (6, 6), (5, 6)]
    assert network(torch.zeros(3, 2, 4, 3)).shape == (3, 5)
    assert sum(isinstance(m, Scale) for m in network.modules()) == 8


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fully_connected(2, Relu()).network(0, 3), ConfigError, "width"),
        (lambda: fully_connected(2, Relu()).network(4, 0), ConfigError, "inputs"),
        (lambda: serial(conv(), Flatten(), DENSE).network(4, 3), ShapeMismatch, "places"),
        (lambda: serial(conv(5, 1, "valid"), Flatten(), DENSE).network(4, (2, 4, 4)), ShapeMismatch, "larger"),
        (lambda: serial(residual(DENSE), DENSE).network(4, 3), ShapeMismatch, "branches"),
        (lambda: serial(Attention(), DENSE).network(4, 3), ShapeMismatch, "plain vectors"),
        (lambda: serial(Identity(), GlobalAvgPool()).network(4, 3), ShapeMismatch, "plain vectors"),
        (lambda: serial(conv(1), Flatten(), DENSE).network(4, (2, 2, 2, 2, 2)), ShapeMismatch, "1 to 3"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
