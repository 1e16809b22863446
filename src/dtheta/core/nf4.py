"""NF4: a weight in four bits an element, packed two to a byte. Pure torch, the same bits on every device.

    q_i = LEVELS[code_i],   code_i = nearest level to w_i / s_b,   s_b = max |w| over block b of 64 in storage order
    w_i ~ q_i * s_b                                                   4 + 32/64 bits an element
    double: s_b ~ low_g + code_b * step_g over groups g of 256 scales   4 + 8/64 + 64/(64 * 256) bits

The 16 levels are quantiles of a normal distribution scaled to [-1, 1]: 8 above zero and 7 below, zero and both ends
exact (tests derive them). Dettmers, Pagnoni, Holtzman and Zettlemoyer 2023, "QLoRA", arXiv 2305.14314.

Deviations. The levels are those of the released tables, since the formula in the paper's text does not give a zero.
The second quantization is an 8-bit integer between the least and the greatest scale of a group, not an 8-bit float
around the mean: half the error on real weights, and decoded by one product and one sum, so that no device's logarithm
or float8 shows. Codes are chosen for the scale that decoding will use. Ties go to the lower level.

Shape legend: N elements in storage order, b = ceil(N / block) blocks, g = ceil(b / 256) groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

GROUP = 256  # scales that share one low and step when they are quantized in turn

# [-1, 1] is cut into cells that hold at most one of the 15 midpoints between levels, so the nearest level takes one
# look-up and one comparison; a binary search over the midpoints (torch.bucketize) takes ten times as long on a CPU.
_CELLS = 32


@dataclass(frozen=True, eq=False)
class PackedNF4:
    """A tensor in four bits an element.

    Attributes:
        codes: (ceil(N / 2),) uint8; element 2i in the high half of byte i, element 2i + 1 in the low half.
        scale: (b,) float32, the largest magnitude of each block; (b,) uint8 where ``coarse`` is given.
        coarse: (2, g) float32, low and step of each group of 256 scales, or None.
        shape: Shape of the tensor.
        block: Elements that share a scale.
    """

    codes: Tensor
    scale: Tensor
    coarse: Tensor | None
    shape: tuple[int, ...]
    block: int

    @property
    def device(self) -> torch.device:
        """Device of the codes."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(t.numel() * t.element_size() for t in (self.codes, self.scale, self.coarse) if t is not None)

    @torch.no_grad()
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the tensor, every element computed in float32 and rounded once to ``dtype``."""
        scale_b = self.scale if self.coarse is None else _decoded_scale(self.scale, self.coarse)
        numel = math.prod(self.shape)
        result = torch.empty(numel, dtype=dtype, device=self.device)
        for start, stop in _chunks(numel, self.block, self.device):
            codes = self.codes[start // 2 : (stop + 1) // 2]
            pairs = _pairs(self.device).index_select(0, codes.to(torch.int32)).view(torch.float32)
            blocks = _blocks(pairs[: stop - start], self.block)
            blocks *= scale_b[start // self.block :][: len(blocks), None]
            result[start:stop] = blocks.view(-1)[: stop - start]
        return result.view(self.shape)


@torch.no_grad()
def quantize_nf4(weight: Tensor, block: int = 64, double: bool = False) -> PackedNF4:
    """Return a floating-point tensor packed in four bits an element.

    Args:
        weight: Tensor of any shape; read in storage order, and in float32 whatever its dtype.
        block: Elements that share a scale; an even number of at least 2. The last block may be shorter.
        double: Whether the scales are stored in 8 bits each instead of 32.

    Raises:
        ConfigError: For a block size that is odd or below 2.
        UnsupportedLayer: For integer, complex or meta tensors.
        NonFinite: If the tensor holds NaN, infinity, or what float32 makes infinity of.
    """
    if block < 2 or block % 2:
        raise ConfigError(f"NF4 needs an even block size of at least 2, found {block}; the usual one is 64")
    if not weight.is_floating_point() or weight.is_meta:
        found = "a tensor on the meta device" if weight.is_meta else str(weight.dtype)
        raise UnsupportedLayer(f"NF4 packs floating-point tensors that have data, found {found}")
    flat = weight.detach().reshape(-1)
    scale_b = _largest(flat, block)
    if not bool(torch.isfinite(scale_b).all()):
        raise NonFinite(f"cannot quantize a tensor of shape {tuple(weight.shape)} that holds NaN or infinity")
    if not double:
        return PackedNF4(_packed(flat, scale_b, block), scale_b, None, tuple(weight.shape), block)
    codes_b, coarse = _packed_scale(scale_b)
    codes = _packed(flat, _decoded_scale(codes_b, coarse), block)
    return PackedNF4(codes, codes_b, coarse, tuple(weight.shape), block)


def _chunks(numel: int, block: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole blocks: small enough for the cache of a CPU core, large where a launch costs more."""
    size = 1 << 18 if device.type == "cpu" else 1 << 24
    step = max(size // block, 1) * block
    for start in range(0, numel, step):
        yield start, min(start + step, numel)


def _blocks(flat: Tensor, block: int) -> Tensor:
    """Return a chunk as (blocks, block), the last block filled up with zeros."""
    missing = -flat.numel() % block
    return (F.pad(flat, (0, missing)) if missing else flat).view(-1, block)


def _largest(flat: Tensor, block: int) -> Tensor:
    """Return the largest magnitude of each block, (b,) float32; NaN where a block holds one."""
    parts = [
        _blocks(flat[start:stop].float(), block).abs().amax(1)
        for start, stop in _chunks(flat.numel(), block, flat.device)
    ]
    return torch.cat(parts) if parts else flat.new_zeros(0, dtype=torch.float32)


def _packed(flat: Tensor, scale_b: Tensor, block: int) -> Tensor:
    """Return the codes of all elements, two to a byte."""
    result = torch.empty((flat.numel() + 1) // 2, dtype=torch.uint8, device=flat.device)
    divisor = torch.where(scale_b > 0, scale_b, 1.0)  # a block of zeros: 0 / 1 is the level zero
    for start, stop in _chunks(flat.numel(), block, flat.device):
        blocks = _blocks(flat[start:stop].float(), block)
        high, low = _nearest(blocks / divisor[start // block :][: len(blocks), None]).view(-1, 2).unbind(1)
        result[start // 2 : (stop + 1) // 2] = ((high << 4) | low)[: (stop - start + 1) // 2]
    return result


def _nearest(x: Tensor) -> Tensor:
    """Return the number of the level nearest to each element, uint8, in order; what lies outside [-1, 1] is clamped."""
    flat = x.view(-1)
    below, midpoint = _cells(flat.device)
    cell = ((flat + 1.0) * (_CELLS / 2)).clamp_(0, _CELLS - 1).to(torch.int32)
    return below.index_select(0, cell) + (flat > midpoint.index_select(0, cell))


def _levels() -> Tensor:
    """Return the levels (16,), whatever dtype and device torch makes tensors in by default."""
    return torch.tensor(LEVELS, dtype=torch.float32, device="cpu")


@cache
def _cells(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, by cell, the number of midpoints below it (uint8) and the next midpoint, which may lie in it."""
    levels = _levels()
    midpoints = (levels[1:] + levels[:-1]) / 2
    edges = torch.arange(_CELLS, dtype=torch.float32, device="cpu") * (2 / _CELLS) - 1
    below = (midpoints < edges[:, None]).sum(1)
    following = torch.cat([midpoints, midpoints.new_tensor([math.inf])])[below]
    return below.to(torch.uint8).to(device), following.to(device)


@cache
def _pairs(device: torch.device) -> Tensor:
    """Return the two levels of every byte as the bits of one int64, so that a look-up moves 8 bytes at once."""
    levels = _levels()
    byte = torch.arange(256, device="cpu")
    return torch.stack([levels[byte >> 4], levels[byte & 15]], 1).view(torch.int64).view(-1).to(device)


def _packed_scale(scale_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales as 8-bit codes (b,), and low and step of their groups (2, g)."""
    missing = -scale_b.numel() % GROUP
    filled = torch.cat([scale_b, scale_b[-1:].expand(missing)]).view(-1, GROUP)
    low, high = filled.aminmax(dim=1)
    step = (high - low) / 255
    codes = ((filled - low[:, None]) / torch.where(step > 0, step, 1.0)[:, None]).round_().clamp_(0, 255)
    return codes.to(torch.uint8).view(-1)[: scale_b.numel()].clone(), torch.stack([low, step])


def _decoded_scale(codes_b: Tensor, coarse: Tensor) -> Tensor:
    low, step = (part.repeat_interleave(GROUP)[: codes_b.numel()] for part in coarse)
    # a product, then a sum: a fused multiply-add rounds once and would differ between devices
    return codes_b.float().mul_(step).add_(low)
