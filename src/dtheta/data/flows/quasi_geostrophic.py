"""Two-layer quasi-geostrophic flow on the sphere: a small chaotic atmosphere with jets and storms, perpetual season.

    dq1/dt = -J(psi1, q1 + f)             + (F/tau) (psi1 - psi2 - D)
    dq2/dt = -J(psi2, q2 + f (1 + h/H0))  - (F/tau) (psi1 - psi2 - D) - r lap psi2

with q, psi and F of ``two_layer``, f = 2 Omega sin(lat), mountains h, the shear D that the flow relaxes to in tau days,
drag of the lower layer. Steps of fourth-order Runge-Kutta; after each the small scales of q are damped by
exp(-(dt/t_h) (l (l+1) / (T (T+1)))^4). Products are formed on a grid where quadrature holds them exactly, so that J
neither makes nor destroys energy and enstrophy within the truncation.

Phillips 1956, Q. J. R. Meteorol. Soc. 82; on the sphere as in Marshall and Molteni 1993, J. Atmos. Sci. 50, in
simplified form. The settings are ours.

Shape legend: B members, H latitudes, W longitudes, L degrees, O orders; planes are (O, 2, L, 2, B).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import number, positive, whole
from dtheta.core.seeds import generator
from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform, inverse_laplacian
from dtheta.core.sphere.transform import to_planes, whn
from dtheta.core.sphere.vector import eigenvalues
from dtheta.data.flows.climatology import upper_winds
from dtheta.data.flows.spectral import Spectral
from dtheta.data.flows.two_layer import EARTH_ROTATION, SPEED, TwoLayer
from dtheta.errors import ConfigError, NonFinite

SCALE_HEIGHT = 9000.0  # m, H0
STEP_HOURS = 6  # the lead of ``step``
#: Latitude, longitude, height (m) and width (degrees of arc) of the mountains.
MOUNTAINS = (
    (38.0, 90.0, 2000.0, 15.0),
    (45.0, 250.0, 1600.0, 15.0),
    (-35.0, 290.0, 1200.0, 15.0),
    (-90.0, 0.0, 800.0, 15.0),
)
#: Latitude, width (degrees) and relative strength of the jets of D; latitude, zonal wave number and m/s of its waves.
JETS = ((42.0, 15.0, 1.0), (-48.0, 15.0, 0.85))
WAVES = ((45.0, 2, 2.1), (-45.0, 1, 1.2))


@dataclass(frozen=True)
class QuasiGeostrophic(Spectral):
    """Two-layer flow; a state is the heights (B, 2, H, W) of the layers in m, upper first, on ``grid``.

    Attributes:
        truncation: T, highest degree.
        shear: highest wind of D in m/s.
        mean_state: where D comes from: "jets", two idealized ones; "january" or "july", the packaged real winds of that
            month at 200 hPa, scaled so that the strongest zonal-mean wind is ``shear``.
        deformation_radius: Rd in km.
        relaxation: tau in days.
        drag: 1/r in days.
        hyperdiffusion: t_h in days.
        time_step: in hours; divides 6.
        precision: "float32" or "float64".
    """

    truncation: int = 21
    shear: float = 70.0
    mean_state: Literal["jets", "january", "july"] = "jets"
    deformation_radius: float = 700.0
    relaxation: float = 20.0
    drag: float = 3.0
    hyperdiffusion: float = 0.5
    time_step: float = 2.0
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be meant."""
        whole(self.truncation, "truncation", least=2)
        number(self.shear, "shear")
        for name in ("deformation_radius", "relaxation", "drag", "hyperdiffusion", "time_step"):
            positive(getattr(self, name), name)
        if self.mean_state not in ("jets", "january", "july"):
            raise ConfigError(f"mean_state must be jets, january or july, got {self.mean_state!r}")
        if self.precision not in ("float32", "float64"):
            raise ConfigError(f"precision must be float32 or float64, got {self.precision!r}")
        if (STEP_HOURS / self.time_step) % 1:
            raise ConfigError(f"time_step={self.time_step} hours does not divide the {STEP_HOURS} hours of a step")

    @cached_property
    def balance(self) -> TwoLayer:
        """The relations between heights, winds and potential vorticity on ``grid``."""
        return TwoLayer(self.grid, self.truncation, self.deformation_radius, self.dtype)

    @cached_property
    def _products(self) -> VectorTransform:
        """The transform to the grid where products of two fields are exact: H = (3 T + 1) / 2."""
        rows = (3 * self.truncation + 2) // 2
        return VectorTransform(SphericalTransform(Grid(rows, 2 * rows), self.truncation, dtype=self.dtype))

    @cached_property
    def _planet(self) -> tuple[Tensor, Tensor]:
        """Eastward and northward derivative (W, H, 2, 1) of f and of f (1 + h/H0)."""
        transform = self._products.scalar
        lat, lon = mesh(transform.grid)
        coriolis = 2 * EARTH_ROTATION * torch.sin(lat)
        layers = torch.stack((coriolis, coriolis * (1 + mountains(lat, lon) / SCALE_HEIGHT))).to(self.dtype)
        east, north = self._products.gradient_planes(transform.to_planes(whn(layers)))
        return east[..., None], north[..., None]

    @cached_property
    def equilibrium(self) -> Tensor:
        """Planes (O, 2, L, 1, 1) of D, the difference of psi between the layers that the flow relaxes to."""
        grid = self._products.scalar.grid
        lat, lon = mesh(grid)
        if self.mean_state == "jets":
            vector = VectorTransform(SphericalTransform(grid, self.truncation, dtype=torch.float64))
            wind = self.shear * torch.cos(lat) ** 0.25 * jets(lat)
            vorticity, _ = vector.vorticity_divergence(wind / SPEED, torch.zeros_like(wind))
            psi = inverse_laplacian(vorticity) + vector.scalar.analyze(waves(lat, lon) / SPEED)
        else:
            psi = upper_winds(self.mean_state).stream_function(self.truncation, self.shear) / SPEED
        psi[..., 0, 0] = 0
        return to_planes(psi)[..., None].to(self.dtype)

    @cached_property
    def _damping(self) -> Tensor:
        """What is left of q (L, 1, 1) after the hyperdiffusion of one time step."""
        n = -eigenvalues(self.truncation + 1)
        return torch.exp(-(self.time_step / 24 / self.hyperdiffusion) * (n / n[-1]) ** 4).to(self.dtype)[:, None, None]

    @cached_property
    def _eigenvalues(self) -> Tensor:
        return eigenvalues(self.truncation + 1).to(self.dtype)[:, None, None]

    def tendency(self, q: Tensor) -> Tensor:
        """Return dq/dt per day of the planes of q, without hyperdiffusion."""
        psi = self.balance.invert(q)
        change = self.advection(psi, q)
        upper, lower = psi.split(1, 3)
        heating = (upper - lower - self.equilibrium) * (self.balance.coupling / self.relaxation)
        return change + torch.cat((heating, -heating - lower * (self._eigenvalues / self.drag)), 3)

    def advection(self, psi: Tensor, q: Tensor) -> Tensor:
        """Return the planes of -J(psi, q + the planet's part) of those of psi and q."""
        both = torch.cat((psi, q), 3)
        east, north = (part.unflatten(-1, both.shape[3:]) for part in self._products.gradient_planes(both.flatten(3)))
        planet_east, planet_north = self._planet
        moved = north[..., :2, :] * (east[..., 2:, :] + planet_east) - east[..., :2, :] * (
            north[..., 2:, :] + planet_north
        )
        return self._products.scalar.to_planes(moved.flatten(2)).view(q.shape)

    def _advance(self, q: Tensor, steps: int) -> Tensor:
        """Return q after so many time steps of Runge-Kutta, each followed by hyperdiffusion."""
        dt = self.time_step / 24
        for _ in range(steps):
            first = self.tendency(q)
            second = self.tendency(q + dt / 2 * first)
            third = self.tendency(q + dt / 2 * second)
            fourth = self.tendency(q + dt * third)
            q = (q + dt / 6 * (first + 2 * (second + third) + fourth)) * self._damping
        return q

    def step(self, heights: Tensor) -> Tensor:
        """Return the heights (B, 2, H, W) in m six hours later.

        Raises:
            ShapeMismatch: a state of another grid.
            NonFinite: the flow blew up, or the state held NaN.
        """
        with torch.no_grad():
            q = self.balance.potential_vorticity(self.balance.psi_of(heights.to(self.dtype)))
            q = self._advance(q, round(STEP_HOURS / self.time_step))
            after = self.balance.heights_of(self.balance.invert(q))
        if not torch.isfinite(after).all():
            raise NonFinite(
                "the flow has NaN or infinite heights after a step: the state held them, or it blew up; "
                f"shorten time_step (now {self.time_step} hours) or look at the state"
            )
        return after

    def run(self, heights: Tensor, steps: int) -> Tensor:
        """Return the states (steps + 1, B, 2, H, W) of so many steps of six hours, the first being ``heights``."""
        states = [heights]
        for _ in range(whole(steps, "steps", least=0)):
            states.append(self.step(states[-1]))
        return torch.stack(states)

    def start(self, members: int, seed: int = 0) -> Tensor:
        """Return states (members, 2, H, W) near rest under 0.7 D, each with small waves of its own, keyed by index."""
        shape = (whole(members, "members", least=1), 2, *self.balance.scalar.shape)
        waves = torch.zeros(shape, dtype=torch.complex128)
        order = torch.arange(shape[-1])
        inside = order <= torch.arange(shape[-2])[:, None]
        for member in range(members):
            draws = generator(seed, "flows/quasi_geostrophic/start", member)
            noise = torch.randn(shape[1:], dtype=torch.complex128, generator=draws) * inside
            waves[member] = 0.002 * torch.where(order == 0, noise.real + 0j, noise)
        waves[..., 0, 0] = 0
        psi = to_planes(waves.transpose(0, 1)).unflatten(-1, (2, members)).to(self.dtype)
        psi[..., :1, :] += 0.7 * self.equilibrium
        return self.balance.heights_of(psi)

    def spin_up(self, members: int = 1, seed: int = 0, *, steps: int = 360) -> Tensor:
        """Return states (members, 2, H, W) of developed flow: ``start``, then so many steps, 90 days by default."""
        heights = self.start(members, seed)
        for _ in range(whole(steps, "steps", least=0)):
            heights = self.step(heights)
        return heights


#: Twice the resolution, weaker damping, and a shear that gives storms of the size of T21's.
T42 = QuasiGeostrophic(truncation=42, shear=60.0, hyperdiffusion=0.2, time_step=1.0)
#: The real winds of January as mean state, with a shear that gives storms of about the same size.
JANUARY = QuasiGeostrophic(mean_state="january", shear=47.0)


def mesh(grid: Grid) -> tuple[Tensor, Tensor]:
    """Return latitude and longitude (H, W) in radians."""
    lat, lon = np.meshgrid(np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes), indexing="ij")
    return torch.from_numpy(lat), torch.from_numpy(lon)


def mountains(lat: Tensor, lon: Tensor) -> Tensor:
    """Return heights of the ground in m at latitudes and longitudes in radians."""
    ground = torch.zeros_like(lat)
    for latitude, longitude, height, width in MOUNTAINS:
        phi = torch.deg2rad(torch.tensor(latitude, dtype=lat.dtype))
        away = torch.cos(lon - torch.deg2rad(torch.tensor(longitude, dtype=lat.dtype)))
        cosine = torch.sin(lat) * torch.sin(phi) + torch.cos(lat) * torch.cos(phi) * away
        ground += height * torch.exp(-((torch.rad2deg(torch.acos(cosine.clamp(-1, 1))) / width) ** 2))
    return ground


def jets(lat: Tensor) -> Tensor:
    """Return the profile of the jets at latitudes in radians; the stronger one has its top at 1."""
    degrees = torch.rad2deg(lat)
    return sum((s * torch.exp(-(((degrees - at) / width) ** 2)) for at, width, s in JETS), torch.zeros_like(lat))


def waves(lat: Tensor, lon: Tensor) -> Tensor:
    """Return the zonally asymmetric part of D, times ``SPEED``, at latitudes and longitudes in radians."""
    degrees, found = torch.rad2deg(lat), torch.zeros_like(lat)
    for at, wave_number, strength in WAVES:
        found += strength * torch.exp(-(((degrees - at) / 15) ** 2)) * torch.cos(wave_number * lon)
    return found
