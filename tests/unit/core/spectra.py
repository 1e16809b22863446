"""Matrices with known singular values: what real weights look like, and what breaks iterations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Spectrum = Callable[[Tensor], Tensor]  # i = 1..k to sigma_i, any order

SPECTRA: dict[str, Spectrum] = {
    "slow decay": lambda i: i**-0.1,
    "decay": lambda i: i**-0.4,
    "fast decay": lambda i: i**-1.0,
    "steep": lambda i: i**-2.0,
    "linear": lambda i: 1 - 0.9 * (i - 1) / len(i),
    "exponential": lambda i: torch.exp(-i / 20),
    "flat": torch.ones_like,
    "nearly flat": lambda i: 1 + 1e-4 * i.cos(),
    "pairs": lambda i: ((i + 1) // 2) ** -0.3,
    "tens": lambda i: torch.floor((len(i) - i) / 10) + 1,
    "forties": lambda i: torch.floor((len(i) - i) / 40) + 1,
    "thirty equal inside": lambda i: torch.where((i > 10) & (i <= 40), 0.7, torch.where(i <= 10, 1.0, 0.69 / i**0.05)),
    "outliers": lambda i: torch.where(i <= 3, 100.0, 1.0) * i**-0.2,
    "one huge": lambda i: torch.where(i <= 1, 1e4, i**-0.3),
    "cliff": lambda i: torch.where(i <= 32, 1.0, 0.999 * i**-0.01),
    "rank 10": lambda i: torch.where(i <= 10, i**-0.5, 0.0),
    "rank 50": lambda i: torch.where(i <= 50, i**-0.5, 0.0),
}


def matrix(spectrum: Spectrum, m: int, n: int, seed: int = 0) -> Tensor:
    """Return W (m, n) in float32 with these singular values, up to rounding, and random singular vectors."""
    draw = torch.Generator().manual_seed(seed)
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=draw, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, k, generator=draw, dtype=torch.float64)).Q
    sigma = spectrum(torch.arange(1, k + 1, dtype=torch.float64))
    return ((U * sigma) @ V.mT).float()
