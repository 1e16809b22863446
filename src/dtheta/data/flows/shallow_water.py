"""Shallow water on the rotating sphere: one layer of fluid with vortices and gravity waves, started in balance.

    dzeta/dt  = -div((zeta + f) v)                              + (zeta* - zeta)/tau
    ddelta/dt =  curl((zeta + f) v) - lap(Phi + |v|^2/2)        - delta/tau
    dPhi/dt   = -div(Phi v)                                     + (Phi* - Phi)/tau

with vorticity zeta, divergence delta, geopotential Phi = g h, and a balanced mean state (zeta*, Phi*) that the flow
relaxes to in tau days, if that is wanted. A start has jets with eddies and no divergence, and the height that keeps its
divergence from growing at once (nonlinear balance): Phi = lap^-1 curl((zeta + f) v) - |v|^2/2. Steps of fourth-order
Runge-Kutta, short enough for gravity waves; after each the small scales are damped as in the two-layer flow. Products
are formed on the quadratic grid.

Williamson et al. 1992, J. Comput. Phys. 102; jets as in Galewsky et al. 2004, Tellus A 56.

Shape legend: B members, H latitudes, W longitudes, L degrees, O orders; coefficients are complex (B, L, O).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from dtheta.core.arguments import positive, whole
from dtheta.core.seeds import generator
from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform, inverse_laplacian, laplacian
from dtheta.core.sphere.vector import eigenvalues
from dtheta.data.flows.quasi_geostrophic import STEP_HOURS, mesh
from dtheta.data.flows.spectral import Spectral
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

EARTH_RADIUS = 6.371e6  # m
GRAVITY = 9.80616  # m / s^2
ROTATION = 7.292e-5  # 1 / s
HOUR, DAY = 3600.0, 86_400.0  # s
#: Latitude, width (degrees) and wind (m/s) of the jets of the mean state.
JETS = ((45.0, 10.0, 90.0), (-45.0, 10.0, 90.0))


@dataclass(frozen=True)
class ShallowWater(Spectral):
    """The flow; a state is height (m), vorticity and divergence (1/s) as fields (B, 3, H, W) on ``grid``.

    Attributes:
        truncation: T, highest degree.
        depth: mean height in m.
        relaxation: tau in days; None leaves the flow to itself.
        hyperdiffusion: days in which the smallest scale is damped by e.
        time_step: in minutes; divides 6 hours, and gravity waves must not outrun it.
        precision: "float32" or "float64".
    """

    truncation: int = 42
    depth: float = 10_000.0
    relaxation: float | None = 10.0
    hyperdiffusion: float = 0.2
    time_step: float = 15.0
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be meant, or a step that gravity waves outrun."""
        whole(self.truncation, "truncation", least=2)
        for name in ("depth", "hyperdiffusion", "time_step"):
            positive(getattr(self, name), name)
        if self.relaxation is not None:
            positive(self.relaxation, "relaxation")
        if self.precision not in ("float32", "float64"):
            raise ConfigError(f"precision must be float32 or float64, got {self.precision!r}")
        if (STEP_HOURS * 60 / self.time_step) % 1:
            raise ConfigError(f"time_step={self.time_step} minutes does not divide the {STEP_HOURS} hours of a step")
        longest = 2.5 * EARTH_RADIUS / math.sqrt(GRAVITY * self.depth * self.truncation * (self.truncation + 1)) / 60
        if self.time_step > longest:
            raise ConfigError(
                f"gravity waves outrun a time_step of {self.time_step} minutes; at most {longest:.0f} here"
            )

    @cached_property
    def transform(self) -> SphericalTransform:
        """Between states and coefficients."""
        return SphericalTransform(self.grid, self.truncation, dtype=self.dtype)

    @cached_property
    def _products(self) -> VectorTransform:
        rows = (3 * self.truncation + 2) // 2
        scalar = SphericalTransform(Grid(rows, 2 * rows), self.truncation, dtype=self.dtype)
        return VectorTransform(scalar, EARTH_RADIUS)

    @cached_property
    def _coriolis(self) -> Tensor:
        lat, _ = mesh(self._products.scalar.grid)
        return (2 * ROTATION * torch.sin(lat)).to(self.dtype)

    @cached_property
    def _damping(self) -> Tensor:
        """What is left of coefficients (L, 1) after the hyperdiffusion of one time step."""
        n = -eigenvalues(self.truncation + 1)
        per_step = self.time_step / (60 * 24) / self.hyperdiffusion
        return torch.exp(-per_step * (n / n[-1]) ** 4).to(self.dtype)[:, None]

    @cached_property
    def mean_state(self) -> tuple[Tensor, Tensor]:
        """Vorticity (1/s) and geopotential (m2/s2) (L, O) of the balanced jets that the flow relaxes to."""
        lat, _ = mesh(self._products.scalar.grid)
        degrees = torch.rad2deg(lat)
        u = sum((s * torch.exp(-(((degrees - at) / width) ** 2)) for at, width, s in JETS), torch.zeros_like(lat))
        wind = (u * torch.cos(lat) ** 0.25).to(self.dtype)
        vorticity, _ = self._products.vorticity_divergence(wind, torch.zeros_like(wind))
        return vorticity, self.balanced(vorticity)

    def balanced(self, vorticity: Tensor) -> Tensor:
        """Return the geopotential (..., L, O) that keeps a flow of this vorticity and no divergence from diverging."""
        curl, _, kinetic = self._fluxes(vorticity, None)
        found = inverse_laplacian(curl, EARTH_RADIUS) - kinetic
        found[..., 0, 0] = GRAVITY * self.depth
        return found

    def _fluxes(self, vorticity: Tensor, divergence: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return curl and divergence of (zeta + f) v, and |v|^2/2, as coefficients."""
        u, v = self._products.winds(vorticity, divergence)
        absolute = self._products.scalar.synthesize(vorticity) + self._coriolis
        curl, spread = self._products.vorticity_divergence(absolute * u, absolute * v)
        return curl, spread, self._products.scalar.analyze((u.square() + v.square()) / 2)

    def tendency(self, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the change per second of vorticity, divergence and geopotential (B, L, O), without hyperdiffusion."""
        vorticity, divergence, phi = state
        u, v = self._products.winds(vorticity, divergence)
        scalar = self._products.scalar
        absolute = scalar.synthesize(vorticity) + self._coriolis
        height = scalar.synthesize(phi)
        flow = torch.stack((absolute * u, height * u)), torch.stack((absolute * v, height * v))
        (curl, _), (spread, outflow) = self._products.vorticity_divergence(*flow)
        kinetic = scalar.analyze((u.square() + v.square()) / 2)
        change = (-spread, curl - laplacian(phi + kinetic, EARTH_RADIUS), -outflow)
        if self.relaxation is None:
            return change
        rest, rate = (self.mean_state[0], 0.0, self.mean_state[1]), 1 / (self.relaxation * DAY)
        zeta, delta, geo = (c + rate * (r - x) for c, r, x in zip(change, rest, state, strict=True))
        return zeta, delta, geo

    def step(self, state: Tensor) -> Tensor:
        """Return the states (B, 3, H, W) six hours later.

        Raises:
            ShapeMismatch: a state of another grid.
            NonFinite: the flow blew up, or the state held NaN.
        """
        with torch.no_grad():
            found = self._coefficients(state)
            for _ in range(round(STEP_HOURS * 60 / self.time_step)):
                found = self._advanced(found, 60 * self.time_step)
            after = self._fields(found)
        if not torch.isfinite(after).all():
            raise NonFinite(
                "the flow is NaN or infinite after a step: the state was, or it blew up; shorten time_step (now "
                f"{self.time_step} minutes) or look at the state"
            )
        return after

    def _advanced(self, state: tuple[Tensor, ...], dt: float) -> tuple[Tensor, Tensor, Tensor]:
        def moved(change: tuple[Tensor, ...], by: float) -> tuple[Tensor, Tensor, Tensor]:
            zeta, delta, phi = (x + by * c for x, c in zip(state, change, strict=True))
            return zeta, delta, phi

        first = self.tendency(moved(state, 0.0))
        second = self.tendency(moved(first, dt / 2))
        third = self.tendency(moved(second, dt / 2))
        fourth = self.tendency(moved(third, dt))
        mean = tuple((a + 2 * (b + c) + d) / 6 for a, b, c, d in zip(first, second, third, fourth, strict=True))
        zeta, delta, phi = (x * self._damping for x in moved(mean, dt))
        return zeta, delta, phi

    def run(self, state: Tensor, steps: int) -> Tensor:
        """Return the states (steps + 1, B, 3, H, W) of so many steps of six hours, the first being ``state``."""
        states = [state]
        for _ in range(whole(steps, "steps", least=0)):
            states.append(self.step(states[-1]))
        return torch.stack(states)

    def start(self, members: int = 1, seed: int = 0, eddies: float = 0.1) -> Tensor:
        """Return balanced states (members, 3, H, W): the jets of the mean state, each with eddies of its own.

        Args:
            members: how many; each is drawn by its own key.
            seed: of the eddies.
            eddies: their vorticity (root mean square) as a share of that of the jets; large scales, degrees to 12.
        """
        jets = self.mean_state[0]
        found = [jets + eddies * self._eddies(jets, seed, i) for i in range(whole(members, "members", least=1))]
        vorticity = torch.stack(found)
        return self._fields((vorticity, torch.zeros_like(vorticity), self.balanced(vorticity)))

    def _eddies(self, jets: Tensor, seed: int, member: int) -> Tensor:
        draws = generator(seed, "flows/shallow_water/start", member)
        noise = torch.randn(self.transform.shape, dtype=torch.complex128, generator=draws).to(jets.dtype)
        noise[0], noise[13:] = 0, 0
        noise[:, 0] = noise[:, 0].real + 0j
        noise = noise * (torch.arange(noise.shape[1]) <= torch.arange(len(noise))[:, None])
        size = [self.transform.power_spectrum(c).sum().sqrt() for c in (jets, noise)]
        return noise * (size[0] / size[1])

    def spin_up(self, members: int = 1, seed: int = 0, *, steps: int = 120) -> Tensor:
        """Return states (members, 3, H, W) of developed flow: ``start``, then so many steps, 30 days by default."""
        state = self.start(members, seed)
        for _ in range(whole(steps, "steps", least=0)):
            state = self.step(state)
        return state

    def winds(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return eastward and northward wind (B, H, W) in m/s of states (B, 3, H, W)."""
        vorticity, divergence, _ = self._coefficients(state)
        return VectorTransform(self.transform, EARTH_RADIUS).winds(vorticity, divergence)

    def _coefficients(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return vorticity, divergence and geopotential (B, L, O) of states."""
        self.grid.check(state, "state")
        if state.ndim != 4 or state.shape[1] != 3:
            raise ShapeMismatch(f"state has the shape {tuple(state.shape)}; expected (B, 3, H, W)")
        height, vorticity, divergence = self.transform.analyze(state.to(self.dtype)).unbind(1)
        return vorticity, divergence, GRAVITY * height

    def _fields(self, found: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        vorticity, divergence, phi = found
        return self.transform.synthesize(torch.stack((phi / GRAVITY, vorticity, divergence), 1))
