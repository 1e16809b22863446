"""`infinite_kernel` as a whole and in tiles, into memory that is given, and its checks of inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.infinite import (
    Attention,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Relu,
    fully_connected,
    infinite_kernel,
    kernel_tiles,
    serial,
)
from tests.unit.kernels.infinite.plain import label

SPEC = fully_connected(4, Relu(), 1.4, 0.1)
X = torch.randn(23, 6, generator=generator(0, "x"), dtype=torch.float64)
X2 = torch.randn(9, 6, generator=generator(0, "x2"), dtype=torch.float64)
IMAGES = torch.randn(5, 2, 4, 4, generator=generator(0, "images"), dtype=torch.float64)
DEEP = serial(Conv(), Relu(), Dropout(0.2), Conv(), Relu(), Attention(), GlobalAvgPool(), Dense())


@pytest.mark.parametrize("tile", [3, 8, 23, 100])
@pytest.mark.parametrize("other", [None, X2])
@pytest.mark.parametrize("spec", [SPEC, fully_connected(3, Elementwise(torch.tanh), 1.4, 0.1)], ids=["relu", "tanh"])
def test_tiles_are_the_whole(tile, other, spec):
    whole, tiled = (infinite_kernel(spec, X, other, get="both", tile=t) for t in (1000, tile))
    for a, b in zip(tiled, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13 if spec is SPEC else 1e-8)


def test_tiles_with_places_are_the_whole():
    whole, tiled = (infinite_kernel(DEEP, IMAGES, tile=t) for t in (1000, 2))
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("spec", "x"), [(SPEC, X), (DEEP, IMAGES)])
def test_a_kernel_is_symmetric_to_the_bit_and_positive(spec, x):
    for values in infinite_kernel(spec, torch.cat([x, x[:2]]), get="both", tile=3):
        assert torch.equal(values, values.mT)
        assert torch.linalg.eigvalsh(values)[0] > -1e-9 * values.diagonal().max()


def test_tiles_of_a_symmetric_kernel_come_once():
    tiles = list(kernel_tiles(SPEC, X, tile=10, get="nngp"))
    assert [(t.rows.start, t.columns.start) for t in tiles] == [(0, 0), (0, 10), (0, 20), (10, 10), (10, 20), (20, 20)]
    whole = infinite_kernel(SPEC, X, get="nngp")
    for t in tiles:
        assert t.ntk is None and t.nngp is not None
        torch.testing.assert_close(t.nngp, whole[t.rows, t.columns])


def test_the_same_examples_given_twice_have_the_same_kernel():
    torch.testing.assert_close(infinite_kernel(SPEC, X, X), infinite_kernel(SPEC, X), rtol=1e-7, atol=0)


def test_the_kernel_goes_where_it_is_told(tmp_path):
    whole = infinite_kernel(SPEC, X, X2)
    array = np.memmap(tmp_path / "kernel", dtype=np.float64, mode="w+", shape=(23, 9))
    found = infinite_kernel(SPEC, X, X2, out=array, tile=5)
    array.flush()
    again = np.memmap(tmp_path / "kernel", dtype=np.float64, mode="r", shape=(23, 9))
    torch.testing.assert_close(torch.from_numpy(np.array(again)), whole)
    assert found.data_ptr() == array.ctypes.data
    tensor = torch.empty(23, 9, dtype=torch.float64)
    assert infinite_kernel(SPEC, X, X2, out=tensor).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("activation", [Relu(), Gelu(), Elementwise(torch.tanh)], ids=label)
def test_float32_is_near_float64(activation):
    spec = fully_connected(4, activation, 1.4, 0.1)
    double, single = (infinite_kernel(spec, X, dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(single.diagonal().double(), double.diagonal(), rtol=1e-6, atol=0)


def test_inputs_of_other_dtypes_and_with_gradients_are_taken():
    whole = infinite_kernel(SPEC, X.float())
    assert torch.equal(infinite_kernel(SPEC, X.float().requires_grad_()), whole) and not whole.requires_grad
    assert infinite_kernel(SPEC, torch.tensor([[1, 2], [3, 4]])).dtype == torch.float64
    torch.testing.assert_close(infinite_kernel(SPEC, X.float().mT.contiguous().mT), whole)


def test_large_numbers_that_only_add_up_to_infinity_are_finite():
    x = torch.full((4, 2), 1.2e19)
    assert infinite_kernel(Dense(), x, get="nngp", dtype=torch.float32).isfinite().all()


def test_an_activation_with_parameters_leaves_no_graph():
    scale = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    found = infinite_kernel(fully_connected(2, Elementwise(lambda x: torch.tanh(scale * x))), X)
    assert not found.requires_grad


def test_zero_inputs_have_a_kernel():
    x = torch.zeros(2, 6, dtype=torch.float64)
    assert torch.equal(infinite_kernel(fully_connected(3, Relu()), x), torch.zeros(2, 2, dtype=torch.float64))
    found = infinite_kernel(serial(Conv(b_std=0.0), Relu(), Flatten(), Dense()), torch.cat([IMAGES, 0 * IMAGES[:1]]))
    assert found.isfinite().all() and (found[-1] == 0).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: infinite_kernel(SPEC, X[0]), ShapeMismatch, "x is shape"),
        (lambda: infinite_kernel(SPEC, X[:0]), ShapeMismatch, "not empty"),
        (lambda: infinite_kernel(SPEC, X, X2[:, :5]), ShapeMismatch, "expected the same"),
        (lambda: infinite_kernel(SPEC, X.tolist()), ShapeMismatch, "list"),
        (lambda: infinite_kernel(SPEC, X + 1j), ShapeMismatch, "real"),
        (lambda: infinite_kernel(SPEC, X * math.nan), NonFinite, "x holds NaN"),
        (lambda: infinite_kernel(SPEC, X, X2 * math.inf), NonFinite, "x2 holds"),
        (lambda: infinite_kernel(SPEC, X * 1e200), NonFinite, "too large"),
        (lambda: infinite_kernel(SPEC, X, get="jacobian"), ConfigError, "get"),
        (lambda: infinite_kernel(SPEC, X, dtype=torch.float16), ConfigError, "dtype"),
        (lambda: infinite_kernel(SPEC, X, tile=0), ConfigError, "tile"),
        (lambda: infinite_kernel(torch.nn.Linear(2, 2), X), ConfigError, "layers"),
        (lambda: infinite_kernel(SPEC, X, get="both", out=torch.empty(23, 23)), ConfigError, "out holds one"),
        (lambda: infinite_kernel(SPEC, X, out=torch.empty(23, 23)), ShapeMismatch, "float64"),
        (lambda: infinite_kernel(SPEC, X, out=torch.empty(23, 9).double()), ShapeMismatch, "expected"),
        (lambda: infinite_kernel(SPEC, X, out="file"), ShapeMismatch, "str"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_wrong_network_leaves_the_memory_given_untouched():
    out = torch.full((23, 23), 7.0, dtype=torch.float64)
    with pytest.raises(ConfigError):
        infinite_kernel(serial(Dense(), Relu(), Relu()), X, out=out)
    with pytest.raises(NonFinite):
        infinite_kernel(SPEC, X.clone().index_fill_(0, torch.tensor([22]), math.nan), out=out)
    for spec in (SPEC, fully_connected(2, Relu())):
        with pytest.raises(NonFinite, match="too large"):
            infinite_kernel(spec, X.clone().index_fill_(0, torch.tensor([22]), 1e200), out=out, tile=4)
    assert (out == 7).all()
