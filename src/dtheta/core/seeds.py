"""Keys for random draws: key = hash(seed, name, index).

No draw ever reads a global generator. Each one names what it is for, so its bits depend on the seed and that name
alone: not on the order of calls, the batch size, the number of workers, or what else ran before.

    key = first 63 bits of blake2b(len(seed) seed len(name) name len(index) index)

Every field carries its length, so two different triples can never spell the same bytes.

Nor does a draw read torch's default dtype and device: in another dtype the same key gives other numbers, and an
accelerator takes no generator of the CPU. ``uniform``, ``normal`` and ``permutation`` say both.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from dtheta.errors import ConfigError

_BITS = 63  # torch seeds are signed 64-bit integers


def key(seed: int, name: str, index: int = 0) -> int:
    """Return the key of the draw ``(seed, name, index)``, an integer in [0, 2**63).

    ``seed`` is the user's seed, ``name`` says what is drawn, ``index`` counts draws of the same name.

    Raises:
        ConfigError: If the seed is no whole number, which would be cut to one.
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise ConfigError(f"seed is {seed!r}; expected a whole number") from None
    digest = hashlib.blake2b(digest_size=8)
    for field in (str(int(seed)), name, str(int(index))):
        encoded = field.encode(errors="surrogatepass")  # names of files are bytes, and may be no text
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little") >> (64 - _BITS)


def generator(seed: int, name: str, index: int = 0) -> torch.Generator:
    """Return a fresh CPU generator for the draw ``(seed, name, index)``.

    Draw on the CPU and move the result: CPU and accelerator generators give different numbers for the same seed.
    """
    return torch.Generator().manual_seed(key(seed, name, index))


def uniform(shape: Sequence[int], low: float, high: float, source: torch.Generator) -> Tensor:
    """Return numbers of U(low, high), float32 on the CPU."""
    return torch.empty(tuple(shape), dtype=torch.float32, device="cpu").uniform_(low, high, generator=source)


def normal(shape: Sequence[int], std: float, source: torch.Generator) -> Tensor:
    """Return numbers of N(0, std^2), float32 on the CPU."""
    return torch.empty(tuple(shape), dtype=torch.float32, device="cpu").normal_(0.0, std, generator=source)


def permutation(count: int, source: torch.Generator) -> Tensor:
    """Return 0 ... count - 1 in a drawn order, (count,) int64 on the CPU."""
    return torch.randperm(count, generator=source, device="cpu")
