"""The partition of aTLAS x K: each element of a block belongs to one of K parts, drawn by its own index.

    k(e) = floor(K u(e)),   u(e) = hash(key, e) / 2^31 in [0, 1),   key = hash(seed, name of the block)

    sum        total_e += c_k(e) tau_e                            a gather
    gradient   dL/dc_k = sum over e with k(e) = k of G_e tau_e    a segmented sum

aTLAS x K (Zhang et al. 2024, arXiv 2407.02880) learns one coefficient per delta, block and part. The released code
holds K one-hot masks a block, shares them between all blocks of one shape, leaves out whatever is no matrix, and keeps
no seed, so that what it learned cannot be used again. Here nothing is stored: a part is a function of (seed, name,
element), by the mixing steps of splitmix64 (Steele, Lea and Flood 2014), whatever the device, the slab or the order.

Shape legend: e elements of a block, in storage order; K parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.seeds import key

_GOLDEN = 0x9E3779B97F4A7C15
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def part_ids(
    seed: int, name: str, parts: int, start: int, stop: int, device: torch.device | str | None = None
) -> Tensor:
    """Return the parts of elements ``start ... stop - 1`` of a block, int64 in [0, parts).

    Args:
        seed: The user's seed.
        name: Of the block, so that blocks of one shape are split independently.
        parts: K.
        start: First element.
        stop: One past the last element.
        device: Of the result; the numbers do not depend on it.
    """
    x = torch.arange(start + 1, stop + 1, dtype=torch.int64, device=device)
    x = x.mul_(_signed(_GOLDEN)).add_(_signed(key(seed, f"atlas/partition/{name}")))  # wraps around, as it should
    for shift, factor in _STEPS:
        x.bitwise_xor_(_shifted(x, shift)).mul_(_signed(factor))
    x.bitwise_xor_(_shifted(x, 31))
    return _shifted(x, 33).mul_(parts).bitwise_right_shift_(31)  # floor(K u) of u in [0, 1): many times a division


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return a shift to the right that fills with zeros; torch's own repeats the sign."""
    return x.bitwise_right_shift(bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """Return the 64-bit word as the signed integer with the same bits."""
    return word - (1 << 64) if word >= 1 << 63 else word
