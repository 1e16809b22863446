"""The two-layer flow: conservation, an exact wave, relaxation, growth of storms, batches, keys, refusals, climate."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from dtheta.core.sphere.transform import to_planes
from dtheta.core.sphere.vector import eigenvalues
from dtheta.data.flows.quasi_geostrophic import SCALE_HEIGHT, T42, QuasiGeostrophic, mesh, mountains
from dtheta.data.flows.two_layer import SPEED
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

EXACT = QuasiGeostrophic(precision="float64")
SMALL = QuasiGeostrophic(truncation=10)
#: No heating, drag or diffusion to speak of.
FREE = QuasiGeostrophic(relaxation=1e30, drag=1e30, hyperdiffusion=1e30, time_step=1.0, precision="float64")


def inner(flow: QuasiGeostrophic, a: Tensor, b: Tensor) -> Tensor:
    """The mean over the sphere of a product of planes, by layer and member."""
    twice = torch.full((a.shape[0], 2, 1, 1, 1), 2.0, dtype=a.dtype)
    twice[0, 0], twice[0, 1] = 1, 0
    return (twice * a * b).sum((0, 1, 2))


def energy(flow: QuasiGeostrophic, q: Tensor) -> Tensor:
    """Kinetic and available potential energy of members: -(1/2) the sum over layers of mean psi q."""
    return -inner(flow, flow.balance.invert(q), q).sum(0) / 2


@pytest.fixture(scope="module")
def developed() -> Tensor:
    """Two members after 20 days from 0.7 D, in float64: strong jets, growing waves."""
    return EXACT.spin_up(2, seed=3, steps=80)


def pv(flow: QuasiGeostrophic, heights: Tensor) -> Tensor:
    return flow.balance.potential_vorticity(flow.balance.psi_of(heights))


def test_advection_makes_neither_energy_nor_enstrophy(developed: Tensor) -> None:
    q = pv(FREE, developed)
    psi = FREE.balance.invert(q)
    change = FREE.advection(psi, q)
    scale = inner(FREE, psi, psi).sqrt() * inner(FREE, change, change).sqrt()
    assert (inner(FREE, psi, change).sum(0).abs() < 1e-13 * scale.sum(0)).all()  # energy
    planet = planet_planes(FREE)
    whole = q + planet
    size = inner(FREE, whole, whole).sqrt() * inner(FREE, change, change).sqrt()
    assert (inner(FREE, whole, change).abs() < 1e-13 * size).all()  # enstrophy of the whole, by layer


def planet_planes(flow: QuasiGeostrophic) -> Tensor:
    transform = flow._products.scalar
    lat, lon = mesh(transform.grid)
    coriolis = 4 * math.pi * torch.sin(lat)
    fields = torch.stack((coriolis, coriolis * (1 + mountains(lat, lon) / SCALE_HEIGHT)))
    return to_planes(transform.analyze(fields))[..., None]


def test_a_free_day_conserves_energy(developed: Tensor) -> None:
    before = energy(FREE, pv(FREE, developed))
    after = FREE.run(developed, 4)[-1]
    torch.testing.assert_close(energy(FREE, pv(FREE, after)), before, rtol=1e-6, atol=0)
    assert not torch.allclose(after, developed, atol=1)


def test_a_rossby_haurwitz_wave_travels_at_its_exact_speed() -> None:
    """A barotropic harmonic (l, m) alone solves the equations: it drifts west by 4 pi / (l (l + 1)) radians a day."""
    flow = dataclasses.replace(FREE)
    degree, order = 4, 3
    psi = torch.zeros(2, 1, *flow.balance.scalar.shape, dtype=torch.complex128)
    psi[:, 0, degree, order] = 0.01
    flow.__dict__["_planet"] = tuple(part[:, :, :1].expand_as(part) for part in flow._planet)  # no mountains
    heights = flow.balance.heights_of(to_planes(psi).unflatten(-1, (2, 1)))
    after = flow.run(heights, 8)[-1]
    turned = psi * torch.exp(torch.tensor(1j * order * 2 * 4 * math.pi / (degree * (degree + 1))))
    expected = flow.balance.heights_of(to_planes(turned).unflatten(-1, (2, 1)))
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-3)


def test_only_the_shear_relaxes_and_only_the_lower_layer_drags() -> None:
    flow = EXACT
    psi = torch.zeros(22, 2, 22, 2, 1, dtype=torch.float64)
    psi[0, 0, 3, 1] = 0.1  # zonal, lower layer: no advection by itself but across the mountains
    q = flow.balance.potential_vorticity(psi)
    forced = flow.tendency(q) - flow.advection(psi, q)
    f = flow.balance.coupling
    shear = -psi[0, 0, 3, 1] - flow.equilibrium[0, 0, 3]
    torch.testing.assert_close(forced[0, 0, 3, :1], f / flow.relaxation * shear)
    torch.testing.assert_close(forced[0, 0, 3, 1:], -f / flow.relaxation * shear + 12 * 0.1 / flow.drag)


def test_the_equilibrium_has_the_jets_it_is_named_after() -> None:
    equilibrium = EXACT.equilibrium[..., 0, 0]
    _, north = EXACT.balance.vector.gradient_planes(equilibrium[..., None])
    wind = -north[..., 0].T.mean(1) * SPEED
    latitudes = torch.tensor(EXACT.grid.latitudes.copy())
    assert 60 < wind.max() < 70 and abs(latitudes[wind.argmax()] - 41) < 6
    south = torch.where(latitudes < 0, wind, 0)
    assert 50 < south.max() < 60 and abs(latitudes[south.argmax()] + 47) < 6


def test_small_scales_are_damped_most() -> None:
    damping = EXACT._damping.flatten()
    n = -eigenvalues(22)
    assert damping[0] == 1 and damping[21].item() == pytest.approx(math.exp(-2 / 24 / 0.5))
    assert (damping.diff() < 0)[1:].all() and damping[5] > 0.999 and n[-1] == 462


def test_members_are_keyed_by_index_and_do_not_meet_in_a_batch() -> None:
    few, many = SMALL.start(2, seed=5), SMALL.start(4, seed=5)
    torch.testing.assert_close(few, many[:2], rtol=0, atol=1e-3)
    assert not torch.allclose(many, SMALL.start(4, seed=6), atol=1)
    torch.testing.assert_close(SMALL.step(many)[2:3], SMALL.step(many[2:3]), rtol=1e-5, atol=1e-2)


def test_a_state_stays_within_the_truncation() -> None:
    heights = SMALL.spin_up(1, steps=8)
    torch.testing.assert_close(SMALL.balance.scalar.truncate(heights), heights, rtol=1e-5, atol=1e-2)
    assert SMALL.grid.mean(heights).abs().max() < 1e-2


def test_shorter_time_steps_change_little(developed: Tensor) -> None:
    coarse, fine = (dataclasses.replace(EXACT, time_step=h).step(developed) for h in (2.0, 1.0))
    assert (coarse - fine).abs().max() < 0.02 * (coarse - developed).abs().max()


def test_twice_the_resolution_goes_the_same_way(developed: Tensor) -> None:
    """Six hours at T42 from a state of T21 differ from those at T21 by far less than the state changes."""
    fine = dataclasses.replace(T42, shear=EXACT.shear, hyperdiffusion=1e30, precision="float64")
    coarse = dataclasses.replace(EXACT, hyperdiffusion=1e30)
    psi = torch.zeros(43, 2, 43, 2, 2, dtype=torch.float64)
    psi[:22, :, :22] = coarse.balance.psi_of(developed)
    after = fine.balance.psi_of(fine.step(fine.balance.heights_of(psi)))[:22, :, :22]
    change = coarse.balance.heights_of(after) - coarse.step(developed)
    assert change.square().mean() < 0.01 * (coarse.step(developed) - developed).square().mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": 1}, "truncation is 1"),
        ({"time_step": 2.5}, "does not divide the 6 hours"),
        ({"drag": 0}, "drag must be positive"),
        ({"mean_state": "venus"}, "jets, january or july, got 'venus'"),
        ({"precision": "bf16"}, "float32 or float64"),
    ],
)
def test_refused_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuasiGeostrophic(**settings)


def test_states_that_cannot_go_on_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(1, 2, 24, 48\)"):
        SMALL.step(torch.zeros(1, 2, 24, 48))
    with pytest.raises(NonFinite, match="NaN or infinite heights"):
        SMALL.step(torch.full((1, 2, *SMALL.grid.shape), torch.nan))


@pytest.mark.slow
def test_climate() -> None:
    """After 60 days: storms of the right size, westerlies in the middle latitudes, errors that double in days."""
    flow = QuasiGeostrophic()
    heights = flow.spin_up(4, seed=1, steps=240)
    states = flow.run(heights, 60)[1:]
    spread = flow.grid.mean((states - states.mean((0, 1))).square().mean((0, 1))).sqrt()
    assert 110 < spread[0] < 200 and 55 < spread[1] < 110
    day = flow.grid.mean((states[4:] - states[:-4]).square().mean((0, 1))).sqrt()[0]
    assert 0.6 < day / spread[0] < 1
    u, _ = flow.balance.winds(states[::8].flatten(0, 1))
    zonal = u.mean((0, 3))
    assert zonal[0, 6] > 20 and zonal[0, 17] > 20 and zonal[0, 11] < 15
    twins = torch.cat((heights, heights + 5 * torch.randn(heights.shape)))
    late = flow.run(flow.balance.scalar.truncate(twins), 60)[-1]
    grown = flow.grid.mean((late[:4] - late[4:]).square().mean(0)).sqrt()[0]
    assert grown > 8
