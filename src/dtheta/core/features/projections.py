"""The random rows g that inputs and weights are projected on, each N(0, I) by itself, and the random frequencies.

    gaussian     independent rows, independent frequencies
    orthogonal   blocks of d orthogonal rows (Haar), each scaled to the norm of an independent N(0, I) row, chi_d; one
                 frequency from each of m strata of equal probability, in random order
    sobol        rows and frequencies are quantiles of one scrambled Sobol sequence: frequency first, then d coordinates

Every row has the law N(0, I) in all three, so estimates are unbiased with each; only how rows depend on one another
differs. Every draw is keyed by (seed, name) and made on the CPU in float64, so that all dtypes and devices see one
projection.

Orthogonal random features: Yu et al. 2016 (arXiv 1610.09072). Scrambled Sobol sequences: Owen 1998; torch.quasirandom.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dtheta.core.seeds import generator, key, permutation

SOBOL_DIMENSIONS = torch.quasirandom.SobolEngine.MAXDIM  # 21201
_SOBOL_STEP = 2.0**-30  # its numbers are multiples of it


def _gaussian(count: int, inputs: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    return _normal(count, inputs, seed, f"{name}/rows"), _uniform(count, seed, f"{name}/frequencies")


def _orthogonal(count: int, inputs: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    blocks, rest = divmod(count, inputs)
    whole = _haar_rows(blocks, inputs, inputs, seed, f"{name}/blocks")
    directions = torch.cat([whole, _haar_rows(1, rest, inputs, seed, f"{name}/rest")])
    norms = _normal(count, inputs, seed, f"{name}/norms").norm(dim=1, keepdim=True)
    order = permutation(count, generator(seed, f"{name}/order"))
    return directions * norms, (order + _uniform(count, seed, f"{name}/frequencies")) / count


def _sobol(count: int, inputs: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    with torch.device("cpu"):  # the engine makes its tables on the default device
        engine = torch.quasirandom.SobolEngine(inputs + 1, scramble=True, seed=key(seed, f"{name}/sobol"))
        points = engine.draw(count, dtype=torch.float64) + _SOBOL_STEP / 2  # 0 has no quantile
    return torch.special.ndtri(points[:, 1:]), points[:, 0]


PROJECTIONS: dict[str, Callable[[int, int, int, str], tuple[Tensor, Tensor]]] = {
    "gaussian": _gaussian,
    "orthogonal": _orthogonal,
    "sobol": _sobol,
}


def draw_rows(projection: str, count: int, inputs: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """Return rows g (count, inputs) and quantiles of frequencies (count,) in (0, 1), float64 on the CPU."""
    return PROJECTIONS[projection](count, inputs, seed, name)


def _haar_rows(blocks: int, rows: int, inputs: int, seed: int, name: str) -> Tensor:
    Q, R = torch.linalg.qr(_normal(blocks * inputs, rows, seed, name).reshape(blocks, inputs, rows))
    signs = R.diagonal(dim1=1, dim2=2).sign()  # with a positive diagonal of R, Q is uniform
    return (Q * signs[:, None]).mT.reshape(blocks * rows, inputs)


def _normal(rows: int, columns: int, seed: int, name: str) -> Tensor:
    return torch.randn(rows, columns, generator=generator(seed, name), dtype=torch.float64, device="cpu")


def _uniform(count: int, seed: int, name: str) -> Tensor:
    return torch.rand(count, generator=generator(seed, name), dtype=torch.float64, device="cpu")
