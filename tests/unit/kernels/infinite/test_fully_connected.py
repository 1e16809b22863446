"""Fully connected networks: the paper's numbers, a plain recursion, definiteness, finite networks of growing width."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.kernels.infinite import Dense, Elementwise, Erf, Relu, fully_connected, infinite_kernel
from tests.unit.kernels.infinite.plain import finite_kernels, label


def circle(count: int) -> Tensor:
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count) + 0.1
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_the_kernel_of_the_papers_first_figure_at_angle_zero():
    columns = [
        infinite_kernel(fully_connected(depth, Relu(), 1.0, 0.1), circle(1), get="both") for depth in (1, 2, 3, 4)
    ]
    assert [one.nngp.item() for one in columns] == pytest.approx([0.51, 0.265, 0.1425, 0.08125], abs=1e-15)
    assert [one.ntk.item() for one in columns] == pytest.approx([0.51, 0.52, 0.4025, 0.2825], abs=1e-15)


def relu_recursion(x: Tensor, depth: int, W_std: float, b_std: float) -> tuple[np.ndarray, np.ndarray]:
    """The recursion of the paper, entry by entry."""
    n = len(x)
    sigma, theta = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            k, p, q = (float(a @ b) / x.shape[1] for a, b in ((x[i], x[j]), (x[i], x[i]), (x[j], x[j])))
            value, p, q = (W_std**2 * v + b_std**2 for v in (k, p, q))
            gradient = value
            for _ in range(depth - 1):
                cosine = min(1.0, value / math.sqrt(p * q))
                angle = 0.0 if i == j else math.acos(cosine)
                mean = math.sqrt(p * q) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
                slope = (math.pi - angle) / (2 * math.pi)
                value, p, q = (W_std**2 * v + b_std**2 for v in (mean, p / 2, q / 2))
                gradient = W_std**2 * gradient * slope + value
            sigma[i, j], theta[i, j] = value, gradient
    return sigma, theta


@pytest.mark.parametrize(("depth", "W_std", "b_std"), [(1, 1.0, 0.1), (2, 1.4, 0.0), (5, 1.3, 0.4)])
def test_the_relu_kernel_is_the_plain_recursion(depth, W_std, b_std):
    x = torch.randn(6, 3, generator=generator(0, "x"), dtype=torch.float64)
    found = infinite_kernel(fully_connected(depth, Relu(), W_std, b_std), x, get="both")
    for values, expected in zip(found, relu_recursion(x, depth, W_std, b_std), strict=True):
        torch.testing.assert_close(values, torch.from_numpy(expected), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", [Relu(), Erf()], ids=label)
def test_kernels_are_positive_definite_on_the_sphere(activation):
    found = infinite_kernel(fully_connected(3, activation, 1.4, 0.2), circle(12), get="both")
    for values in found:
        assert torch.linalg.eigvalsh(values)[0] > 1e-6


def test_a_polynomial_has_a_singular_kernel_once_there_are_more_examples_than_its_features():
    square = fully_connected(2, Elementwise(torch.square))  # of degree 2 in two variables: three monomials
    for values in infinite_kernel(square, circle(8), get="both"):
        found = torch.linalg.eigvalsh(values)
        assert found[-3] > 1e-2 * found[-1] and found[:-3].abs().max() < 1e-12 * found[-1]


@pytest.mark.parametrize("which", ["nngp", "ntk"])
def test_finite_networks_converge_as_one_over_the_root_of_the_width(which):
    spec, x = fully_connected(3, Relu(), 1.4, 0.1), torch.randn(4, 3, generator=generator(1, "x"))
    limit = infinite_kernel(spec, x, get="both")
    widths, draws, errors = (32, 128, 512), 20, []
    for width in widths:
        found = []
        for seed in range(draws):
            network = spec.network(width, 3, seed=seed)
            if which == "ntk":
                value = finite_kernels(network, x)[1]
            else:  # the mean over the last layer's draw
                hidden = network[:-1](x).detach()
                value = 1.4**2 * hidden @ hidden.mT / width + 0.1**2
            found.append(float((value.double() - getattr(limit, which)).norm() / getattr(limit, which).norm()))
        errors.append(np.sqrt(np.mean(np.square(found))))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.62 < slope < -0.38 and errors[-1] < 0.2


def test_depth_counts_the_layers_of_weights():
    spec = fully_connected(4, Relu(), 1.0, 0.1)
    assert sum(isinstance(layer, Dense) for layer in spec.layers) == 4
    with pytest.raises(ConfigError, match="depth"):
        fully_connected(0, Relu())
