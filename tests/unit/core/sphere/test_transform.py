"""The scalar transform: SciPy's harmonics, round trips, Parseval, derivatives, layouts and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.core.sphere import Grid, SphericalTransform, transform
from dtheta.errors import ConfigError, ShapeMismatch

special = pytest.importorskip("scipy.special")
GRIDS = [
    (Grid(24, 48), 21, None),
    (Grid(22, 44), 21, None),
    (Grid(43, 90, "equiangular"), 21, None),
    (Grid(33, 64, "equiangular"), 16, 9),
    (Grid(2, 3), 1, None),
    (Grid(5, 1), 4, 0),
]


def random_coefficients(found: SphericalTransform, *leading: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    values = torch.randn(*leading, *found.shape, dtype=dtype, generator=generator(0, "coefficients"))
    degree, order = torch.arange(found.shape[0])[:, None], torch.arange(found.shape[1])
    values = values * (order <= degree)
    return torch.where(order == 0, values.real + 0j, values)


@pytest.mark.parametrize(("grid", "degree", "order"), GRIDS)
def test_synthesis_is_the_sum_of_scipys_harmonics(grid: Grid, degree: int, order: int | None) -> None:
    found = SphericalTransform(grid, degree, order, dtype=torch.float64)
    c = random_coefficients(found)
    theta, lon = grid.colatitudes[:, None], np.deg2rad(grid.longitudes)
    expected = np.zeros(grid.shape)
    for n in range(degree + 1):
        for m in range(min(n, found.order) + 1):
            harmonic = special.sph_harm_y(n, m, theta, lon) * math.sqrt(4 * math.pi)
            expected += (1 if m == 0 else 2) * (c[n, m].item() * harmonic).real
    np.testing.assert_allclose(found.synthesize(c).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize(("grid", "degree", "order"), GRIDS)
@pytest.mark.parametrize(("real", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_analysis_undoes_synthesis(
    grid: Grid, degree: int, order: int | None, real: torch.dtype, tolerance: float
) -> None:
    found = SphericalTransform(grid, degree, order, dtype=real)
    c = random_coefficients(found, 2, 3).to(torch.complex64 if real == torch.float32 else torch.complex128)
    back = found.analyze(found.synthesize(c))
    assert back.shape == c.shape and back.dtype == c.dtype
    torch.testing.assert_close(back, c, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("grid", "degree", "order"), GRIDS)
def test_power_spectrum_sums_to_the_mean_square(grid: Grid, degree: int, order: int | None) -> None:
    found = SphericalTransform(grid, degree, order, dtype=torch.float64)
    c = random_coefficients(found, 4)
    power = found.power_spectrum(c)
    assert power.shape == (4, degree + 1)
    squares = found.synthesize(c).square()
    torch.testing.assert_close(power.sum(-1), grid.mean(squares))  # exact: degree 2 T is within the quadrature


def test_a_single_harmonic_has_its_power_at_its_degree() -> None:
    grid = Grid(24, 48)
    field = torch.from_numpy(special.sph_harm_y(5, 3, grid.colatitudes[:, None], np.deg2rad(grid.longitudes)).real)
    found = SphericalTransform(grid, 21, dtype=torch.float64)
    power = found.power_spectrum(found.analyze(field))
    assert power[5].item() == pytest.approx(1 / (8 * math.pi)) and power.sum().item() == pytest.approx(power[5].item())


def test_truncation_keeps_what_is_within_and_drops_what_is_above() -> None:
    grid = Grid(48, 96)
    fine, coarse = (SphericalTransform(grid, t, dtype=torch.float64) for t in (42, 21))
    c = random_coefficients(fine)
    kept = coarse.truncate(fine.synthesize(c))
    torch.testing.assert_close(kept, coarse.synthesize(c[:22, :22]))
    torch.testing.assert_close(coarse.truncate(kept), kept)


def test_the_fast_transform_of_long_rows_is_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SphericalTransform(Grid(24, 48), 21, dtype=torch.float64)
    field = torch.randn(3, 24, 48, dtype=torch.float64)
    by_product = found.analyze(field)
    monkeypatch.setattr(transform, "_LONGEST_PRODUCT", 0)
    torch.testing.assert_close(found.analyze(field), by_product)
    fast = found.synthesize(by_product)
    monkeypatch.undo()
    torch.testing.assert_close(found.synthesize(by_product), fast)


def test_both_directions_are_differentiable() -> None:
    found = SphericalTransform(Grid(5, 9), 4, dtype=torch.float64)
    field = torch.randn(2, 5, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: torch.view_as_real(found.analyze(x)), field)
    c = random_coefficients(found, 2).requires_grad_()
    assert torch.autograd.gradcheck(found.synthesize, c)


def test_vmap_gives_what_the_batch_gives() -> None:
    found = SphericalTransform(Grid(24, 48), 21, dtype=torch.float64)
    field = torch.randn(3, 2, 24, 48, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(found.truncate)(field), found.truncate(field))


def test_tables_are_in_no_state_dict_and_move_with_the_module() -> None:
    found = SphericalTransform(Grid(24, 48), 21)
    assert not found.state_dict() and found.to("meta").analysis_OLH.is_meta


@pytest.mark.parametrize(
    ("grid", "degree", "order", "message"),
    [
        (Grid(21, 64), 21, None, "degree 21 needs 22 latitudes of a gauss grid, and this one has 21"),
        (Grid(42, 64, "equiangular"), 21, None, "needs 43 latitudes"),
        (Grid(24, 42), 21, None, "order 21 needs more than 42 longitudes"),
        (Grid(24, 48), 10, 11, "order 11 is above degree 10"),
        (Grid(24, 48), -1, None, "degree is -1"),
    ],
)
def test_what_a_grid_cannot_resolve_is_refused(grid: Grid, degree: int, order: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SphericalTransform(grid, degree, order)


def test_other_precisions_are_refused() -> None:
    found = SphericalTransform(Grid(24, 48), 21)
    with pytest.raises(ConfigError, match=r"torch.float64 and the tables .* torch.float32; .* dtype=torch.float64"):
        found.analyze(torch.zeros(24, 48, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"torch.float64 and the tables"):
        found.synthesize(torch.zeros(22, 22, dtype=torch.complex128))
    with pytest.raises(ConfigError, match=r"torch.int64 and the tables"):
        found.analyze(torch.zeros(24, 48, dtype=torch.int64))


def test_fields_and_coefficients_of_other_shapes_are_refused() -> None:
    found = SphericalTransform(Grid(24, 48), 21)
    with pytest.raises(ShapeMismatch, match=r"\(24, 47\)"):
        found.analyze(torch.zeros(24, 47))
    with pytest.raises(ShapeMismatch, match="float32 of shape"):
        found.synthesize(torch.zeros(22, 22))
    with pytest.raises(ShapeMismatch, match=r"\(22, 21\)"):
        found.power_spectrum(torch.zeros(22, 21, dtype=torch.complex64))
