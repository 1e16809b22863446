"""NF4: the levels, the packing against a plain reference, the second quantization, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.core.nf4 import GROUP, LEVELS, PackedNF4, _cells, _pairs, quantize_nf4
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer


def drawn(*shape: int, index: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "test_nf4", index))


def reference(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Levels and values by the definition: block by block, the nearest of 16, the lower of two equally near."""
    levels = torch.tensor(LEVELS)
    midpoints = (levels[1:] + levels[:-1]) / 2
    flat = weight.float().flatten()
    codes, values = [], []
    for start in range(0, flat.numel(), block):
        part = flat[start : start + block]
        scale = part.abs().max()
        found = torch.bucketize(part / scale if scale > 0 else part, midpoints)
        codes.append(found)
        values.append(levels[found] * scale)
    return torch.cat(codes), torch.cat(values).view(weight.shape)


def unpacked_codes(packed: PackedNF4, numel: int) -> Tensor:
    return torch.stack([packed.codes >> 4, packed.codes & 15], 1).flatten()[:numel].long()


def test_levels_are_normal_quantiles_around_an_exact_zero():
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2  # mean of the end points of 16 and of 15 equal slices of probability

    def quantiles(count: int) -> Tensor:
        return torch.special.ndtri(torch.linspace(offset, 0.5, count, dtype=torch.float64)[:-1])

    levels = torch.cat([-quantiles(8), torch.zeros(1, dtype=torch.float64), quantiles(9)]).sort().values
    levels /= levels.max()
    torch.testing.assert_close(torch.tensor(LEVELS, dtype=torch.float64), levels, rtol=0, atol=2e-7)
    assert LEVELS[0] == -1.0
    assert LEVELS[7] == 0.0
    assert LEVELS[-1] == 1.0


@pytest.mark.parametrize("shape", [(1,), (2,), (63,), (64,), (65,), (7, 9), (3, 128), (5, 4, 3), (0,), (0, 64)])
@pytest.mark.parametrize("block", [2, 16, 64])
def test_any_shape_agrees_with_the_definition(shape: tuple[int, ...], block: int):
    weight = drawn(*shape)
    packed = quantize_nf4(weight, block)
    back = packed.dequantize()
    assert back.shape == weight.shape
    assert packed.codes.numel() == (weight.numel() + 1) // 2
    if weight.numel():
        codes, values = reference(weight, block)
        assert torch.equal(unpacked_codes(packed, weight.numel()), codes)
        assert torch.equal(back, values)


def test_more_elements_than_one_chunk_agree_with_the_definition():
    weight = drawn((1 << 18) + 101)
    codes, values = reference(weight, 64)
    packed = quantize_nf4(weight)
    assert torch.equal(unpacked_codes(packed, weight.numel()), codes)
    assert torch.equal(packed.dequantize(), values)


def test_every_threshold_is_exact_to_the_last_bit():
    levels = torch.tensor(LEVELS)
    middle = (levels[1:] + levels[:-1]) / 2
    near = torch.cat([middle, middle.nextafter(torch.tensor(2.0)), middle.nextafter(torch.tensor(-2.0)), levels])
    edges = torch.arange(33) / 16 - 1
    weight = torch.cat([near, edges, edges.nextafter(torch.tensor(0.0)), torch.linspace(-1, 1, 4099)])
    blocks = torch.cat([torch.ones(len(weight), 1), weight[:, None]], 1)  # every block holds a 1, so its scale is 1
    codes, values = reference(blocks, 2)
    packed = quantize_nf4(blocks, 2)
    assert torch.equal(unpacked_codes(packed, blocks.numel()), codes)
    assert torch.equal(packed.dequantize(), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype(dtype: torch.dtype):
    weight = drawn(33, 40).to(dtype)
    back = quantize_nf4(weight).dequantize(dtype)
    assert back.dtype == dtype
    assert torch.equal(back, reference(weight, 64)[1].to(dtype))


def test_a_transposed_view_is_read_in_storage_order_of_its_shape():
    weight = drawn(24, 40).T
    assert torch.equal(quantize_nf4(weight).dequantize(), quantize_nf4(weight.contiguous()).dequantize())


def test_zeros_and_denormals_stay_finite():
    weight = torch.cat([torch.zeros(64), torch.full((64,), 1e-42), drawn(64)])
    for double in (False, True):
        back = quantize_nf4(weight, double=double).dequantize()
        assert bool(torch.isfinite(back).all())
        assert torch.equal(back[:64], torch.zeros(64))
    assert torch.equal(quantize_nf4(torch.zeros(100), double=True).dequantize(), torch.zeros(100))


def test_packing_what_was_unpacked_changes_nothing():
    first = quantize_nf4(drawn(50, 70))
    again = quantize_nf4(first.dequantize())
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.scale, again.scale)


def test_bytes():
    weight = drawn(256, 256)
    blocks = weight.numel() // 64
    assert quantize_nf4(weight).nbytes == weight.numel() // 2 + 4 * blocks
    assert quantize_nf4(weight, double=True).nbytes == weight.numel() // 2 + blocks + 8 * (blocks // GROUP)


def test_second_quantization_costs_little_accuracy():
    weight = drawn(300, 333) * (1 + drawn(300, 1, index=1).abs())
    plain, double = quantize_nf4(weight), quantize_nf4(weight, double=True)
    error = (plain.dequantize() - weight).norm()
    assert (double.dequantize() - weight).norm() < 1.01 * error
    assert double.scale.dtype == torch.uint8
    assert double.coarse is not None
    assert double.coarse.shape == (2, -(-plain.scale.numel() // GROUP))
    low, step = double.coarse.repeat_interleave(GROUP, 1)[:, : plain.scale.numel()]
    assert bool(((low + step * double.scale - plain.scale).abs() <= 0.5001 * step + 1e-9).all())


def test_codes_are_the_nearest_for_the_scale_that_decoding_uses():
    weight = drawn(64, 64) * torch.linspace(0.1, 5, 64)[:, None]
    packed = quantize_nf4(weight, double=True)
    assert packed.coarse is not None
    low, step = packed.coarse.repeat_interleave(GROUP, 1)[:, : packed.scale.numel()]
    scale = (packed.scale * step + low).repeat_interleave(64)
    distance = (weight.flatten()[:, None] - scale[:, None] * torch.tensor(LEVELS)).abs()
    found = (weight - packed.dequantize()).abs().flatten()
    torch.testing.assert_close(found, distance.min(1).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_refused(bad: float):
    weight = drawn(40, 40)
    weight[17, 3] = bad
    with pytest.raises(NonFinite, match="NaN or infinity"):
        quantize_nf4(weight)


@pytest.mark.parametrize("block", [0, 1, 3, -64])
def test_odd_blocks_are_refused(block: int):
    with pytest.raises(ConfigError, match="even block size"):
        quantize_nf4(torch.ones(8), block)


def test_what_holds_no_real_numbers_is_refused():
    with pytest.raises(UnsupportedLayer, match="int64"):
        quantize_nf4(torch.arange(8))
    with pytest.raises(UnsupportedLayer, match="meta"):
        quantize_nf4(torch.empty(8, device="meta"))


def test_same_values_as_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = drawn(128, 192)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    torch.testing.assert_close(quantize_nf4(weight).dequantize(), functional.dequantize_4bit(packed, state))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("double", [False, True])
def test_same_bits_on_the_accelerator(double: bool):
    weight = drawn(515, 333)
    here, there = quantize_nf4(weight, double=double), quantize_nf4(weight.cuda(), double=double)
    assert torch.equal(here.codes, there.codes.cpu())
    assert torch.equal(here.scale, there.scale.cpu())
    assert torch.equal(here.dequantize(), there.dequantize().cpu())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_that_torch_has_by_default_changes_nothing(dtype):
    weight = drawn(8, 96)
    expected = quantize_nf4(weight).dequantize()
    _cells.cache_clear(), _pairs.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        found = quantize_nf4(weight).dequantize()
    finally:
        torch.set_default_dtype(torch.float32)
        _cells.cache_clear(), _pairs.cache_clear()
    assert torch.equal(found, expected)
