"""Shallow water: balance, exact steady flow, conservation, gravity waves, relaxation, keys and refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from dtheta.core.sphere import laplacian
from dtheta.data.flows.quasi_geostrophic import mesh
from dtheta.data.flows.shallow_water import EARTH_RADIUS, GRAVITY, ROTATION, ShallowWater
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

SMALL = ShallowWater(truncation=15, time_step=30.0)
EXACT = dataclasses.replace(SMALL, precision="float64")
#: No relaxation, and no diffusion to speak of.
FREE = dataclasses.replace(EXACT, relaxation=None, hyperdiffusion=1e30, time_step=15.0)


def rms(flow: ShallowWater, field: Tensor) -> Tensor:
    return flow.grid.mean(field.square()).sqrt()


def steady(flow: ShallowWater, speed: float = 20.0) -> Tensor:
    """Solid rotation and the height that holds it: an exact steady solution (Williamson's second case)."""
    lat, _ = mesh(flow.grid)
    height = flow.depth - (EARTH_RADIUS * ROTATION * speed + speed**2 / 2) * (torch.sin(lat) ** 2 - 1 / 3) / GRAVITY
    vorticity = 2 * speed / EARTH_RADIUS * torch.sin(lat)
    return torch.stack((height, vorticity, torch.zeros_like(height)))[None].to(flow.dtype)


def test_solid_rotation_stays_as_it_is() -> None:
    state = steady(FREE)
    after = FREE.run(state, 8)[-1]
    assert (after[:, 0] - state[:, 0]).abs().max() < 1e-4
    assert (after[:, 1:] - state[:, 1:]).abs().max() < 1e-12
    u, v = FREE.winds(after)
    lat, _ = mesh(FREE.grid)
    torch.testing.assert_close(u[0], 20 * torch.cos(lat))
    assert v.abs().max() < 1e-6


def test_the_balanced_height_of_solid_rotation_is_the_exact_one() -> None:
    vorticity, _, _ = FREE._coefficients(steady(FREE))
    height = FREE.transform.synthesize(FREE.balanced(vorticity)) / GRAVITY
    torch.testing.assert_close(height, steady(FREE)[:, 0])


def test_a_balanced_start_does_not_diverge_at_once() -> None:
    state = EXACT._coefficients(EXACT.start(2))
    _, change, _ = EXACT.tendency(state)
    unbalanced = (state[0], state[1], state[2] * (torch.arange(16)[:, None] == 0))
    _, much, _ = EXACT.tendency(unbalanced)
    assert change.abs().max() < 1e-10 * much.abs().max()


def test_balanced_flow_makes_few_gravity_waves() -> None:
    after = SMALL.run(SMALL.start(2), 8)[-1]
    assert (rms(SMALL, after[:, 2]) < 0.03 * rms(SMALL, after[:, 1])).all()


def test_free_flow_conserves_mass_and_nearly_energy() -> None:
    state = FREE.start(2, seed=1)
    after = FREE.run(state, 4)[-1]
    torch.testing.assert_close(FREE.grid.mean(after[:, 0]), FREE.grid.mean(state[:, 0]), rtol=1e-12, atol=0)

    def energy(x: Tensor) -> Tensor:
        u, v = FREE.winds(x)
        h = x[:, 0]
        return FREE.grid.mean(h * (u.square() + v.square()) / 2 + GRAVITY * (h - FREE.depth).square() / 2)

    torch.testing.assert_close(energy(after), energy(state), rtol=5e-4, atol=0)
    assert not torch.allclose(after[:, 0], state[:, 0], atol=10)


@pytest.fixture(scope="module")
def ten_days() -> Tensor:
    """Free flow (41, 4, 3, H, W) from two balanced starts, and from the same vortices under a flat surface."""
    flow = dataclasses.replace(FREE, time_step=30.0)
    balanced = flow.start(2, seed=1)
    flat = balanced.clone()
    flat[:, 0] = flow.depth
    return flow.run(torch.cat((balanced, flat)), 40)


def test_over_ten_days_of_balanced_flow_no_invariant_drifts(ten_days: Tensor) -> None:
    """Mass, energy and potential enstrophy; what the truncation leaves of the latter two is below half a percent."""
    lat, _ = mesh(FREE.grid)

    def invariants(x: Tensor) -> Tensor:
        (u, v), height, absolute = FREE.winds(x), x[:, 0], x[:, 1] + 2 * ROTATION * torch.sin(lat)
        energy = height * (u.square() + v.square()) / 2 + GRAVITY * (height - FREE.depth).square() / 2
        return torch.stack([FREE.grid.mean(one) for one in (height, energy, absolute.square() / (2 * height))])

    begin, drift = invariants(ten_days[0]), torch.stack([invariants(x) for x in ten_days[4::4]])
    drift = (drift / begin - 1).abs().amax(0)  # (3, members)
    assert (drift[0] < 1e-12).all()
    assert (drift[1, :2] < 0.006).all() and (drift[2, :2] < 0.002).all()
    assert (rms(FREE, ten_days[-1, :2, 0] - ten_days[0, :2, 0]) > 50).all()  # m: it did move


def test_for_ten_days_balanced_flow_has_far_smaller_gravity_waves_than_unbalanced(ten_days: Tensor) -> None:
    """Waves are what diverges, and what the height does within six hours."""
    divergence = FREE.grid.mean(ten_days[4:, :, 2].square()).mean(0).sqrt()
    swing = FREE.grid.mean((ten_days[5:, :, 0] - ten_days[4:-1, :, 0]).square()).mean(0).sqrt()
    assert (divergence[:2] < 0.06 * divergence[2:]).all()
    assert (swing[:2] < 0.15 * swing[2:]).all()
    assert (divergence[:2] < 0.02 * rms(FREE, ten_days[-1, :2, 1])).all()


def test_a_small_gravity_wave_has_its_frequency() -> None:
    """Without rotation and flow a harmonic of height swings with sqrt(g h l (l + 1)) / a."""
    flow = dataclasses.replace(FREE, depth=8000.0)
    flow.__dict__["_coriolis"] = torch.zeros(())
    degree, state = 3, torch.zeros(1, 3, *flow.transform.shape, dtype=torch.complex128)
    state[0, 0, 0, 0], state[0, 0, degree, 2] = 8000.0, 1e-3
    hours = 6
    after = flow.transform.analyze(flow.step(flow.transform.synthesize(state)))
    frequency = math.sqrt(GRAVITY * 8000 * degree * (degree + 1)) / EARTH_RADIUS
    assert after[0, 0, degree, 2].real.item() == pytest.approx(
        1e-3 * math.cos(frequency * hours * 3600), rel=1e-4, abs=1e-7
    )


def test_relaxation_draws_to_the_balanced_jets() -> None:
    flow = dataclasses.replace(EXACT, relaxation=2.0)
    vorticity, phi = flow.mean_state
    state = (1.1 * vorticity[None], torch.zeros_like(vorticity)[None], phi[None])
    free = dataclasses.replace(flow, relaxation=None).tendency(state)
    change = flow.tendency(state)
    torch.testing.assert_close(change[0] - free[0], -0.1 * vorticity[None] / (2 * 86_400))
    torch.testing.assert_close(change[2] - free[2], torch.zeros_like(free[2]), atol=1e-12, rtol=0)
    jets = flow.transform.synthesize(vorticity)
    u = -torch.tensor(1.0) * flow.winds(flow._fields((vorticity[None], 0 * vorticity[None], phi[None])))[0]
    assert jets.abs().max() > 3e-5 and -u.min() > 60


def test_divergence_equation_is_the_laplacian_of_the_bernoulli_function() -> None:
    vorticity, _, _ = EXACT._coefficients(EXACT.start(1))
    curl, _, kinetic = EXACT._fluxes(vorticity, None)
    balance = curl - laplacian(EXACT.balanced(vorticity) + kinetic, EARTH_RADIUS)
    assert balance.abs().max() < 1e-12 * curl.abs().max()


def test_members_are_keyed_by_index() -> None:
    few, many = SMALL.start(2, seed=5), SMALL.start(3, seed=5)
    torch.testing.assert_close(few, many[:2])
    assert not torch.allclose(many[:, 0], SMALL.start(3, seed=6)[:, 0], atol=1)
    assert torch.equal(SMALL.spin_up(1, steps=0), SMALL.start(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": 42, "time_step": 30.0}, "gravity waves outrun a time_step of 30.0 minutes; at most 20 here"),
        ({"time_step": 7.0}, "does not divide the 6 hours"),
        ({"depth": -1.0}, "depth must be positive"),
        ({"precision": "half"}, "float32 or float64"),
    ],
)
def test_refused_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShallowWater(**settings)


def test_states_that_cannot_go_on_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"expected \(B, 3, H, W\)"):
        SMALL.step(torch.zeros(1, 2, *SMALL.grid.shape))
    with pytest.raises(NonFinite, match="NaN or infinite"):
        SMALL.step(torch.full((1, 3, *SMALL.grid.shape), torch.nan))
