"""Noise as a perturbation of the start: white, correlated on the sphere, or differences of past states.

    SphericalNoise    f = synthesis(c),  variance of c_lm  ~  exp(-(L / a)^2 / 2  l (l + 1)),  l >= 1

with L the length of correlation and a the radius of the earth: diffusion of white noise on the sphere, stationary in
time as an autoregressive process with phi = exp(-hours / correlation_hours) (as Mahesh et al. 2025, arXiv 2408.03100).
Beside the released code: the mean of the field (l = 0) is zero, not random, and the real coefficients at m = 0 have the
variance of complex ones, without which the field is too weak near the poles; the variance is sigma^2 everywhere.

    RandomFields      difference of two states of a climate, scaled (Magnusson et al. 2009, Tellus A 61)

Shape legend: B rows, C channels, H latitudes, W longitudes, L degrees, O orders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.core.fingerprint import tensor_digest
from dtheta.core.seeds import generator, normal, permutation
from dtheta.core.sphere import Grid, SphericalTransform
from dtheta.ensemble.perturbation import Advance, Perturbation, Rows, Start, amplitude_of, draw_normal
from dtheta.ensemble.rescaling import Rescaling, VariableRescaling
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

EARTH_RADIUS_KM = 6371.0

Amplitude = float | Sequence[float] | Tensor


@dataclass(frozen=True, eq=False)
class WhiteNoise(Perturbation):
    """Independent normal numbers in every element of a state.

    Attributes:
        amplitude: standard deviation: a number, one a channel, or one an element.
    """

    amplitude: Amplitude

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the noise (B, ...)."""
        return draw_normal(rows, "white", start.state) * amplitude_of(self.amplitude, start.state)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {"name": "WhiteNoise", "amplitude": settled(self.amplitude)}


@dataclass(frozen=True, eq=False)
class SphericalNoise(Perturbation):
    """Correlated noise on the sphere, isotropic, a field of its own for each channel of states (C, H, W) or (H, W).

    Attributes:
        amplitude: standard deviation: a number, or one a channel; channels with 0 are not drawn.
        grid: of the states.
        length_km: length of correlation L.
        correlation_hours: time of correlation, of ``series``.
        degree: highest degree; None for the highest that the grid resolves.
    """

    amplitude: Amplitude
    grid: Grid
    length_km: float = 500.0
    correlation_hours: float = 48.0
    degree: int | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a length or time that is not positive."""
        for name in ("length_km", "correlation_hours"):
            if number(getattr(self, name), name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a positive number")

    @cached_property
    def transform(self) -> SphericalTransform:
        """The transform to the grid."""
        resolved = min(self.grid.exact_degree, (self.grid.nlon - 1) // 2)
        return SphericalTransform(self.grid, resolved if self.degree is None else self.degree)

    @cached_property
    def deviations_L(self) -> Tensor:  # the suffix is the shape
        """Standard deviations of the coefficients of each degree, for a field of variance 1."""
        l = torch.arange(self.transform.degree + 1, dtype=torch.float64)
        spectrum = torch.exp(-((self.length_km / EARTH_RADIUS_KM) ** 2) / 2 * l * (l + 1))
        spectrum[0] = 0.0
        if not float(spectrum.sum()) > 0:
            raise ConfigError(
                f"spherical noise of length_km={self.length_km:g} and degrees 1 to {self.transform.degree} has nothing "
                "left; expected a shorter length, and a degree of 1 or more"
            )
        return (spectrum / ((2 * l + 1) * spectrum).sum()).sqrt()

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the noise (B, ..., H, W)."""
        self.grid.check(start.state, "a state")
        shape = start.state.shape[:-2]
        amplitude = amplitude_of(self.amplitude, start.state).expand(start.state.shape).reshape(-1, *self.grid.shape)
        drawn = [c for c in range(math.prod(shape)) if bool((amplitude[c] > 0).any())]
        vectors = torch.zeros(len(rows), len(amplitude), *self.grid.shape)
        if drawn:
            xi = torch.stack(
                [self._coefficients(rows.generator(row, f"spherical/{c}")) for row in range(len(rows)) for c in drawn]
            )
            vectors[:, drawn] = self.transform.synthesize(xi).unflatten(0, (len(rows), len(drawn)))
        return vectors.to(amplitude).mul_(amplitude).reshape(len(rows), *start.state.shape)

    def series(self, steps: int, *, hours: float = 6.0, seed: int = 0, draw: int = 0) -> Iterator[Tensor]:
        """Yield ``steps`` fields (H, W) of variance 1, ``hours`` apart: c <- phi c + sqrt(1 - phi^2) xi.

        For a perturbation of the model itself during a run, which none of ours uses.
        """
        phi = math.exp(-number(hours, "hours") / self.correlation_hours)
        draws = generator(seed, "ensemble/spherical/series", draw)
        c = self._coefficients(draws)
        for _ in range(whole(steps, "steps", least=0)):
            yield self.transform.synthesize(c)
            c = phi * c + math.sqrt(1 - phi**2) * self._coefficients(draws)

    def _coefficients(self, draws: torch.Generator) -> Tensor:
        """Return coefficients (L, O) of a field of variance 1."""
        real, imaginary = normal((2, *self.transform.shape), 1.0, draws)
        orders = torch.arange(self.transform.order + 1)
        degrees = torch.arange(self.transform.degree + 1)
        deviations = self.deviations_L.float()[:, None] * (orders <= degrees[:, None])
        # over m > 0 the variance is shared by the real and the imaginary part; at m = 0 there is a real part only
        real = real * torch.where(orders == 0, 1.0, math.sqrt(0.5))
        imaginary = imaginary * torch.where(orders == 0, 0.0, math.sqrt(0.5))
        return torch.complex(real * deviations, imaginary * deviations)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings."""
        return {
            "name": "SphericalNoise", "amplitude": settled(self.amplitude), "grid": self.grid.to_dict(),
            "length_km": self.length_km, "correlation_hours": self.correlation_hours, "degree": self.degree,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class RandomFields(Perturbation):
    """Scaled differences of two states of a climate, drawn without regard to the day: balanced, but of no flow.

    Attributes:
        climate: past states (N, ...), two or more.
        amplitude: of the differences: a number, one a channel, or one an element.
        rescaling: what has the amplitude; each channel by default.
    """

    climate: Tensor
    amplitude: Amplitude
    rescaling: Rescaling = field(default_factory=VariableRescaling)

    def __post_init__(self) -> None:
        """Raise for states of which no difference can be taken.

        Raises:
            ConfigError: for fewer than two.
            NonFinite: for NaN or infinity among them.
        """
        if self.climate.ndim < 2 or len(self.climate) < 2:
            raise ConfigError(f"states are {tuple(self.climate.shape)}; expected (N, ...), two or more states")
        if not bool(torch.isfinite(self.climate).all()):
            raise NonFinite("the states of the climate hold NaN or infinity; leave those out")

    def vectors(self, start: Start, rows: Rows, advance: Advance) -> Tensor:
        """Return the differences (B, ...)."""
        if self.climate.shape[1:] != start.state.shape:
            found = f"{tuple(self.climate.shape[1:])} and the analysis {tuple(start.state.shape)}"
            raise ShapeMismatch(f"the states of the climate are {found}; expected the same")
        pairs = [permutation(len(self.climate), rows.generator(i, "random"))[:2] for i in range(len(rows))]
        first, second = torch.stack(pairs, 1).to(self.climate.device)
        differences = (self.climate[first] - self.climate[second]).to(start.state)
        return self.rescaling(differences, amplitude_of(self.amplitude, start.state))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the states by their digest."""
        return {
            "name": "RandomFields", "climate": tensor_digest(self.climate), "amplitude": settled(self.amplitude),
            "rescaling": self.rescaling.to_dict(),
        }  # fmt: skip


def settled(amplitude: Amplitude) -> Any:
    """Return an amplitude as a record holds it: numbers, or the digest of many."""
    found = torch.as_tensor(amplitude)
    return found.tolist() if found.numel() <= 1000 else tensor_digest(found)
