"""Real winds at 200 hPa: what is known of them, their stream function, and a flow that relaxes to them."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.sphere import SphericalTransform, VectorTransform, laplacian
from dtheta.data.flows.climatology import GRID, MONTHS, Winds, upper_winds
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.errors import ConfigError, MissingExtra


@pytest.fixture(scope="module")
def winds() -> dict[str, Winds]:
    try:
        return {month: upper_winds(month) for month in ("january", "july")}
    except MissingExtra as error:
        pytest.skip(str(error))


def test_the_winds_of_winter_and_summer(winds: dict[str, Winds]) -> None:
    january, july = winds["january"], winds["july"]
    row, column = divmod(int(january.u.argmax()), GRID.nlon)
    assert 70 < january.u.max() < 80  # the jet stream, south of Japan
    assert 30 <= GRID.latitudes[row] <= 37 and 130 <= GRID.longitudes[column] <= 150
    north = torch.tensor(GRID.latitudes.copy()) > 20
    zonal_january, zonal_july = january.u.mean(-1), july.u.mean(-1)
    assert zonal_january[north].max() > 1.5 * zonal_july[north].max()
    assert zonal_july[~north].max() > 28 and january.v.abs().max() < 20


def test_the_stream_function_blows_as_the_winds_do(winds: dict[str, Winds]) -> None:
    psi = winds["january"].stream_function(36)
    vector = VectorTransform(SphericalTransform(GRID, 36, dtype=torch.float64))
    u, _ = vector.winds(laplacian(psi))
    error = GRID.mean((u - winds["january"].u).square()).sqrt()
    assert error < 1.5  # m/s: its divergent part and what is beyond degree 36
    scaled = winds["january"].stream_function(36, strongest=60.0)
    zonal = vector.winds(laplacian(scaled))[0].mean(-1)
    assert zonal.max().item() == pytest.approx(60.0)


def test_a_flow_takes_them_as_its_mean_state(winds: dict[str, Winds]) -> None:
    flow = QuasiGeostrophic(mean_state="january", shear=60.0)
    after = flow.spin_up(1, steps=12)
    u, _ = flow.balance.winds(after)
    assert flow.equilibrium[1:].abs().max() > 0 and 25 < u[0, 0].mean(-1).max() < 60


def test_months_have_names() -> None:
    assert len(MONTHS) == 12
    with pytest.raises(ConfigError, match=r"no month 'juli'.*did you mean 'july'"):
        upper_winds("juli")
