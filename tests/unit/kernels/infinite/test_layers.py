"""The algebra of layers: plain references of single layers, sums of branches, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.infinite import (
    Attention,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    Relu,
    Sign,
    fully_connected,
    infinite_kernel,
    parallel,
    residual,
    serial,
)

IMAGES = torch.randn(3, 2, 4, 5, generator=generator(0, "images"), dtype=torch.float64)
TOKENS = torch.randn(3, 4, 6, generator=generator(0, "tokens"), dtype=torch.float64)
VECTORS = torch.randn(4, 3, generator=generator(0, "vectors"), dtype=torch.float64)


def conv_reference(x: Tensor, window: tuple[int, int], strides: tuple[int, int], padding: str) -> np.ndarray:
    """The NNGP of one convolution and Flatten: patches are cut out and multiplied."""
    values = x.numpy()
    pads = [(0, 0) if padding == "valid" else ((k - 1) // 2, k // 2) for k in window]
    values = np.pad(values, [(0, 0), (0, 0), *pads], mode="wrap" if padding == "circular" else "constant")
    patches = np.lib.stride_tricks.sliding_window_view(values, window, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]
    count = patches.shape[2] * patches.shape[3]
    return np.einsum("nchwij,mchwij->nm", patches, patches) / (x.shape[1] * math.prod(window) * count)


@pytest.mark.parametrize("padding", ["same", "valid", "circular"])
@pytest.mark.parametrize(
    ("window", "strides"), [((3, 3), (1, 1)), ((2, 3), (2, 1)), ((3, 2), (2, 3)), ((1, 4), (1, 2))]
)
@pytest.mark.parametrize("full", [False, True])
def test_a_convolution_averages_products_of_patches(padding, window, strides, full):
    between = (AvgPool(1),) if full else ()  # which makes the layers before it hold all pairs of places
    spec = serial(Conv(window, strides, padding, 1.3, 0.2), *between, Flatten())
    expected = 1.3**2 * conv_reference(IMAGES, window, strides, padding) + 0.2**2
    torch.testing.assert_close(infinite_kernel(spec, IMAGES, get="nngp"), torch.from_numpy(expected))


def test_pairs_of_places_change_nothing_where_they_are_not_needed():
    deep = (Conv(3, 1, "same", 1.3, 0.2), Relu(), Conv(3, 2, "circular", 1.3, 0.2), Relu(), Dense(1.1, 0.3), Relu())
    for other in (None, IMAGES[:2] + 0.1):
        narrow = infinite_kernel(serial(*deep, Flatten(), Dense()), IMAGES, other, get="both")
        wide = infinite_kernel(serial(*deep, AvgPool(1), Flatten(), Dense()), IMAGES, other, get="both")
        for a, b in zip(narrow, wide, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_pooling_averages_over_pairs_of_places():
    full = torch.einsum("nchw,mcij->nmhwij", IMAGES, IMAGES) / 2
    pooled = infinite_kernel(serial(AvgPool(2), GlobalAvgPool()), IMAGES, get="nngp")
    torch.testing.assert_close(pooled, full[:, :, :4, :4, :4, :4].mean((2, 3, 4, 5)))
    torch.testing.assert_close(infinite_kernel(GlobalAvgPool(), IMAGES, get="nngp"), full.mean((2, 3, 4, 5)))
    flat = infinite_kernel(Flatten(), IMAGES, get="nngp")
    torch.testing.assert_close(flat, IMAGES.flatten(1) @ IMAGES.flatten(1).mT / 40)


def test_attention_is_its_formula():
    found = infinite_kernel(serial(Attention(0.8, 1.2, 1.1, 0.3), GlobalAvgPool()), TOKENS, get="both")
    products = torch.einsum("ncs,mct->nmst", TOKENS, TOKENS) / 4
    for i in range(3):
        for j in range(3):
            Z, Z2 = (torch.softmax(0.8**2 * products[k, k], 1) for k in (i, j))
            core = (1.2 * 1.1) ** 2 * Z @ products[i, j] @ Z2.T
            assert found.nngp[i, j].item() == pytest.approx(core.mean().item() + 0.09)
            assert found.ntk[i, j].item() == pytest.approx(2 * core.mean().item() + 0.09)


def test_layer_norm_divides_by_the_standard_deviations():
    plain = infinite_kernel(Dense(1.3, 0.2), VECTORS, get="both")
    normed = infinite_kernel(serial(Dense(1.3, 0.2), LayerNorm(0.1)), VECTORS, get="both")
    scale = (plain.nngp.diagonal() + 0.1).rsqrt()
    for a, b in zip(normed, plain, strict=True):
        torch.testing.assert_close(a, b * scale[:, None] * scale)


def test_dropout_raises_an_example_with_itself_alone():
    kept = infinite_kernel(serial(Dense(), Relu(), Dense()), VECTORS, get="both")
    dropped = infinite_kernel(serial(Dense(), Relu(), Dropout(0.2), Dense()), VECTORS, get="both")
    for a, b in zip(dropped, kept, strict=True):
        torch.testing.assert_close(a.diagonal(), b.diagonal() / 0.8)
        torch.testing.assert_close(a - a.diagonal().diag(), b - b.diagonal().diag())


def test_a_residual_adds_kernels():
    inner = serial(Relu(), Dense(1.3, 0.1))
    a, b = (infinite_kernel(spec, VECTORS, get="both") for spec in (Dense(), serial(Dense(), inner)))
    found = infinite_kernel(serial(Dense(), residual(inner)), VECTORS, get="both")
    for total, one, other in zip(found, a, b, strict=True):
        torch.testing.assert_close(total, one + other)


def test_serial_is_associative_and_identity_is_nothing():
    layers = (Dense(1.2, 0.1), Relu(), Dense(1.1))
    found = [infinite_kernel(s, VECTORS) for s in (serial(*layers), serial(serial(*layers[:2]), layers[2], Identity()))]
    assert torch.equal(*found)
    assert torch.equal(infinite_kernel(serial(), VECTORS, get="nngp"), infinite_kernel(Identity(), VECTORS, get="nngp"))


def test_no_gradient_passes_a_sign():
    spec = serial(Dense(1.5, 0.3), Sign(), Dense())
    found = infinite_kernel(spec, VECTORS, get="both")
    torch.testing.assert_close(found.ntk, found.nngp)


def test_specs_are_values():
    assert serial(Dense(), Relu()) == serial(Dense(), Relu()) != serial(Dense(), Relu(), Dense())
    assert len({fully_connected(3, Relu()), fully_connected(3, Relu())}) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: serial(Dense(), Relu(), Relu()), ConfigError, "not Gaussian"),
        (lambda: Relu(), ConfigError, "not Gaussian"),
        (lambda: serial(Dense(), Relu(), LayerNorm(), Dense()), ConfigError, "not Gaussian"),
        (lambda: serial(LayerNorm(), Dense()), ConfigError, "not Gaussian"),
        (lambda: serial(Dense(), Dropout(0.5), Relu()), ConfigError, "not Gaussian"),
        (lambda: serial(Dense(), residual(Relu())), ConfigError, "correlated"),
        (lambda: parallel(serial(Dense(), Relu()), serial(Dense(), Relu())), ConfigError, "correlated"),
        (lambda: parallel(Identity(), Identity()), ConfigError, "correlated"),
        (lambda: serial(Dense(), Flatten()), ShapeMismatch, "plain vectors"),
        (lambda: serial(Conv(), Flatten()), ShapeMismatch, "plain vectors"),
        (lambda: serial(Attention()), ShapeMismatch, "plain vectors"),
    ],
)
def test_networks_without_a_kernel_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        infinite_kernel(make(), VECTORS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: serial(Conv(), Relu()), "Flatten"),
        (lambda: serial(Conv((3, 3, 3)), Flatten()), "axes"),
        (lambda: serial(Conv(6, 1, "valid"), Flatten()), "larger"),
        (lambda: serial(AvgPool(5), Flatten()), "larger"),
        (lambda: serial(parallel(Conv(), Conv(3, 2)), Flatten()), "branches"),
    ],
)
def test_places_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ShapeMismatch, match=message):
        infinite_kernel(make(), IMAGES)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dense(0.0), ConfigError, "W_std"),
        (lambda: Dense(1.0, -0.1), ConfigError, "b_std"),
        (lambda: Dense(math.nan), NonFinite, "W_std"),
        (lambda: Conv(0), ConfigError, "window"),
        (lambda: Conv(3, 0), ConfigError, "strides"),
        (lambda: Conv(3, 1, "reflect"), ConfigError, "padding"),  # pyright: ignore[reportArgumentType]
        (lambda: AvgPool(2.5), ConfigError, "window"),  # pyright: ignore[reportArgumentType]
        (lambda: LayerNorm(0.0), ConfigError, "eps"),
        (lambda: Dropout(1.0), ConfigError, "rate"),
        (lambda: Attention(-1.0), ConfigError, "W_std"),
        (lambda: serial(Dense(), torch.nn.ReLU()), ConfigError, "layer 1"),  # pyright: ignore[reportArgumentType]
        (lambda: serial(Dense), ConfigError, r"write Dense\(\)"),  # pyright: ignore[reportArgumentType]
        (lambda: parallel(), ConfigError, "no branches"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
