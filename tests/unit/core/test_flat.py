"""The boundary between torch and NumPy: memory shared, 16-bit floats widened exactly, what cannot be read refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dtheta.core.flat import PIECE, flat, pieces, size_of
from dtheta.errors import ConfigError, UnsupportedLayer


def test_memory_is_shared():
    tensor = torch.arange(6.0).reshape(2, 3)
    flat(tensor, "it", written=True)[4] = 9.0
    assert tensor[1, 1] == 9.0
    array = np.zeros((2, 3))
    assert np.shares_memory(flat(array, "it"), array)


def test_a_parameter_is_read_without_its_graph():
    parameter = torch.nn.Parameter(torch.ones(3))
    assert flat(parameter, "it").tolist() == [1.0, 1.0, 1.0]


def test_other_strides_are_read_in_the_order_of_their_shape_and_never_written():
    tensor = torch.arange(6.0).reshape(2, 3).T
    assert flat(tensor, "it").tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    with pytest.raises(ConfigError, match=r"theta of shape .* cannot be written in place.*contiguous copy"):
        flat(tensor, "theta", written=True)
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    with pytest.raises(ConfigError, match="cannot be written"):
        flat(fixed, "theta", written=True)


def test_misaligned_memory_is_copied_to_be_read_and_refused_to_be_written():
    odd = np.arange(41, dtype=np.uint8)[1:41].view(np.float32)
    assert not odd.flags.aligned
    assert flat(odd, "it").flags.aligned
    with pytest.raises(ConfigError):
        flat(odd, "it", written=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("least", [np.float32, np.float64])
def test_short_floats_are_widened_exactly_in_pieces(dtype: torch.dtype, least: type):
    values = torch.randn(PIECE + 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[:4] = torch.tensor([float("inf"), -0.0, 1e-7, -3.0])
    found = list(pieces(values, "it", least))
    assert [part.size for part in found] == [PIECE, 5]
    assert all(part.dtype == least for part in found)
    joined = np.concatenate(found)
    assert np.array_equal(joined, values.double().numpy()) and np.signbit(joined[1])


def test_numpy_half_and_float32_are_widened_too():
    half = np.array([[1.5, -2.0]], np.float16)
    assert [p.tolist() for p in pieces(half, "it")] == [[1.5, -2.0]]
    (wide,) = pieces(np.array([1.5], np.float32), "it", np.float64)
    assert wide.dtype == np.float64
    (same,) = pieces(np.array([1.5]), "it", np.float32)
    assert same.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.zeros(2, dtype=torch.int32), "theta is int32; expected float32 or float64"),
        (torch.zeros(2, dtype=torch.bfloat16), "theta is torch.bfloat16; expected float32"),
        (torch.zeros(2, device="meta"), "theta cannot be read: it is on the meta device"),
        (torch.zeros(2, 2).to_sparse(), "theta cannot be read"),
        (np.zeros(2, ">f4"), "theta is >f4"),
        ([1.0], "theta is a list"),
    ],
)
def test_what_cannot_be_read_is_refused(values, said: str):
    with pytest.raises(UnsupportedLayer, match=said):
        flat(values, "theta")


def test_integers_have_no_pieces():
    with pytest.raises(UnsupportedLayer):
        list(pieces(np.arange(3), "it"))


def test_sizes():
    assert size_of(torch.zeros(2, 3)) == size_of(np.zeros((3, 2))) == 6
