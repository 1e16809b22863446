"""Spherical harmonic transforms: speed beside a direct einsum, accuracy beside ducc0.

    python bench/sht.py            # ducc0 is optional: without it only the speed is measured

The direct einsum is how the transform is mostly written in PyTorch: rfft, then an einsum of its real and imaginary
parts with the Legendre table, and back. Both go forward and back over the same batch in float32. Accuracy is in
float64: root mean square difference of fields from ducc0's over their size, scalar and gradient.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench._measure import Row, compare, interleaved, main
from dtheta.core.seeds import generator
from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform

SPEED = ((Grid(24, 48), 21, 192), (Grid(64, 128), 42, 64), (Grid(128, 256), 84, 32), (Grid(160, 320), 106, 16))
ACCURACY = (21, 42, 106, 255)


def direct(transform: SphericalTransform) -> Callable[[Tensor], Tensor]:
    """Return a round trip by FFT and einsum, with the tables of ours."""
    forward, backward = transform.analysis_OLH.contiguous(), transform.synthesis_OHL.contiguous()
    orders, width = transform.order + 1, transform.grid.nlon

    def run(field: Tensor) -> Tensor:
        rows = torch.view_as_real(torch.fft.rfft(field, norm="forward")[..., :orders])
        c = torch.einsum("...hmr,mlh->...lmr", rows, forward)
        back = torch.einsum("...lmr,mhl->...hmr", c, backward).contiguous()
        return torch.fft.irfft(torch.view_as_complex(back), n=width, norm="forward")

    return run


def speed(repeat: int) -> Iterator[Row]:
    """Yield the time of a round trip on each grid."""
    for grid, degree, count in SPEED:
        transform = SphericalTransform(grid, degree)
        by_einsum = direct(transform)
        field = transform.truncate(torch.randn(count, *grid.shape, generator=generator(0, "bench/sht")))
        error = (by_einsum(field) - transform.truncate(field)).abs().max().item()
        planes = field.permute(2, 1, 0).contiguous()
        contestants: dict[str, Callable[[], Any]] = {
            "ours": lambda t=transform, f=field: t.truncate(f),
            "einsum": lambda run=by_einsum, f=field: run(f),
            "planes": lambda t=transform, f=planes: t.from_planes(t.to_planes(f)),
        }
        contestants |= _ducc(transform, field)
        found = {name: 1e6 * seconds / count for name, seconds in interleaved(contestants, repeat).items()}
        goal = 1.25 if grid.nlon <= 128 else None  # beyond, both are bound by the same FFT and product
        note = f"in the networks' own layout {found['planes']:.1f}; they differ by {error:.1e} at most"
        if "ducc0" in found:
            note += f"; ducc0, one thread, float32: {found['ducc0']:.1f}"
        name = f"round trip, T{degree} on {grid.nlat} x {grid.nlon}, batch {count}"
        yield compare(name, found["ours"], found["einsum"], "us/field", goal=goal, note=note)


def _ducc(transform: SphericalTransform, field: Tensor) -> dict[str, Callable[[], Any]]:
    try:
        import ducc0
    except ImportError:
        return {}
    arguments = {"lmax": transform.degree, "spin": 0, "geometry": "GL", "nthreads": 1}
    fields, (rows, columns) = field.numpy(), transform.grid.shape

    def run() -> None:
        for one in fields:
            alm = ducc0.sht.analysis_2d(map=one[None], **arguments)
            ducc0.sht.synthesis_2d(alm=alm, ntheta=rows, nphi=columns, **arguments)

    return {"ducc0": run}


def accuracy() -> Iterator[Row]:
    """Yield the difference of fields and gradients from ducc0's, relative to their size."""
    try:
        import ducc0
    except ImportError:
        return
    for degree in ACCURACY:
        grid = Grid(degree + 1, 2 * degree + 2)
        transform = SphericalTransform(grid, degree, dtype=torch.float64)
        c = _random(transform)
        alm = _packed(c)[None]
        common = {"lmax": degree, "nthreads": 1}
        theirs = ducc0.sht.synthesis_2d(alm=alm, spin=0, geometry="GL", ntheta=grid.nlat, nphi=grid.nlon, **common)[0]
        ours = transform.synthesize(c).numpy()
        back = (
            transform.analyze(torch.from_numpy(ours)) - c
        ).abs().square().mean().sqrt() / c.abs().square().mean().sqrt()
        note = f"round trip {back:.1e}"
        yield compare(f"field, T{degree}", _relative(ours, theirs), None, "relative", note=note)
        rings = {
            "theta": grid.colatitudes.copy(), "nphi": np.full(grid.nlat, grid.nlon, np.uint64),
            "phi0": np.zeros(grid.nlat), "ringstart": np.arange(grid.nlat, dtype=np.uint64) * grid.nlon,
        }  # fmt: skip
        slope = ducc0.sht.synthesis_deriv1(alm=alm, **rings, **common).reshape(2, *grid.shape)
        east, north = VectorTransform(transform).gradient(c)
        ours = np.stack((-north.numpy(), east.numpy()))
        yield compare(f"gradient, T{degree}", _relative(ours, slope), None, "relative")


def _random(transform: SphericalTransform) -> Tensor:
    c = torch.randn(transform.shape, dtype=torch.complex128, generator=generator(0, "bench/sht/accuracy"))
    order = torch.arange(transform.order + 1)
    c = c * (order <= torch.arange(transform.degree + 1)[:, None])
    return torch.where(order == 0, c.real + 0j, c)


def _packed(c: Tensor) -> np.ndarray:
    """Return coefficients (L, O) as ducc0 has them: order by order, of harmonics whose square integrates to 1."""
    return math.sqrt(4 * math.pi) * np.concatenate([c[m:, m].numpy() for m in range(c.shape[1])])


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    yield from speed(arguments.repeat)
    yield from accuracy()


if __name__ == "__main__":
    main(__doc__.splitlines()[0], measure, repeat=15, packages=("torch", "numpy", "ducc0"))
