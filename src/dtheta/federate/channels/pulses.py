"""Weak laser pulses: the number of photons is Poisson, and what arrives depends on it.

    P(n)  = e^-mu mu^n / n!                        photons of a pulse of intensity mu
    Y_n   = 1 - (1 - Y_0)(1 - eta)^n               yield: probability of a click; Y_0 by dark counts
    e_n Y_n = e_0 Y_0 (1 - eta)^n + e_d (1 - (1 - eta)^n)         e_0 = 1/2, e_d the channel's error
    Q_mu  = sum_n P(n) Y_n = 1 - (1 - Y_0) e^(-eta mu)            gain
    E_mu Q_mu = e_0 Y_0 e^(-eta mu) + e_d (1 - e^(-eta mu))

Ma, Qi, Zhao and Lo 2005 (arXiv quant-ph/0503005), whose Q_mu = Y_0 + 1 - e^(-eta mu) leaves out Y_0 eta: here sums over
n hold exactly. A `Line` has the yields of a channel or of an attack; `simulate` draws the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.adapt.fields import settle_fields
from dtheta.errors import ConfigError
from dtheta.federate.channels.bb84 import tapped_error
from dtheta.federate.channels.eavesdropper import Eavesdropper, InterceptResend, PhotonNumberSplitting
from dtheta.federate.quantum.noise import probability

DARK_ERROR = 0.5  # e_0: a dark count shows a random bit
PHOTONS = 30  # with an intensity of up to 1, more come with a probability below 1e-33


@dataclass(frozen=True)
class Pulses:
    """A source of weak pulses.

    Attributes:
        signal: Mean photons of a signal pulse, from which the key is made; at most 1.
        weak: Mean photons of a weak decoy pulse; below ``signal``.
        shares: Shares of signal, weak and vacuum pulses; they add up to 1.
        dark: Y_0, probability of a click without a photon.
        count: Pulses that are sent at least, for the statistics.
        decoys: Whether the weak and vacuum pulses are used. Without them nothing is known of the photon numbers, and
            the channel is trusted to be the one expected, which photon-number splitting betrays.
    """

    signal: float = 0.5
    weak: float = 0.1
    shares: tuple[float, float, float] = (0.7, 0.2, 0.1)
    dark: float = 1e-5
    count: int = 100_000_000
    decoys: bool = True

    def __post_init__(self) -> None:
        settle_fields(self)
        probability(self.dark, "dark")
        if not 0 < self.weak < self.signal <= 1:
            raise ConfigError(f"intensities are {self.signal} and {self.weak}; expected 0 < weak < signal <= 1")
        if not all(share > 0 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-9:
            raise ConfigError(f"shares are {self.shares}; expected those of signal, weak and vacuum, sum 1, none 0")
        if not 1 <= self.count <= 10**15:
            raise ConfigError(f"count is {self.count}; expected 1 to 10^15 pulses")

    @property
    def intensities(self) -> tuple[float, float, float]:
        """Mean photons of signal, weak and vacuum pulses."""
        return self.signal, self.weak, 0.0


@dataclass(frozen=True)
class Line:
    """What becomes of a pulse with n = 0, 1, ... photons: probability of a click, and of a wrong bit then."""

    yields: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Counts:
    """What the parties see of the pulses of one intensity: clicks, those in the right basis, wrong bits among these."""

    intensity: float
    pulses: int
    clicks: int
    sifted: int
    errors: int


@dataclass(frozen=True)
class Truth:
    """What the parties cannot see: the same of pulses with one photon, whatever their intensity."""

    pulses: int
    clicks: int
    sifted: int
    errors: int


def quiet_line(transmittance: float, dark: float, error: float) -> Line:
    """Return the line on which nobody listens."""
    missed = (1 - transmittance) ** torch.arange(PHOTONS + 1, dtype=torch.float64)
    yields = 1 - (1 - dark) * missed
    wrong = DARK_ERROR * dark * missed + error * (1 - missed)
    return Line(yields, torch.where(yields > 0, wrong / yields.clamp_min(1e-300), torch.zeros_like(yields)))


def gain(intensity: float, transmittance: float, dark: float) -> float:
    """Return Q_mu of the line on which nobody listens."""
    return 1 - (1 - dark) * math.exp(-transmittance * intensity)


def error_rate(intensity: float, transmittance: float, dark: float, error: float) -> float:
    """Return E_mu of the line on which nobody listens; 0 where nothing arrives."""
    missed = math.exp(-transmittance * intensity)
    found = gain(intensity, transmittance, dark)
    return (DARK_ERROR * dark * missed + error * (1 - missed)) / found if found else 0.0


def tapped_line(
    eavesdropper: Eavesdropper | None, intensity: float, transmittance: float, dark: float, error: float
) -> Line:
    """Return the line with an eavesdropper; one who splits pulses keeps the gain at this intensity, if possible."""
    quiet = quiet_line(transmittance, dark, error)
    if isinstance(eavesdropper, InterceptResend):
        return quiet_line(transmittance, dark, tapped_error(eavesdropper.share, error))
    if not isinstance(eavesdropper, PhotonNumberSplitting):
        return quiet
    weights = photon_numbers(intensity)
    yields = quiet.yields.clone()
    yields[1] *= 1 - eavesdropper.share
    missing = float(weights @ quiet.yields - weights[:2] @ yields[:2])
    yields[2:] = min(1.0, missing / float(weights[2:].sum()))
    errors = torch.full_like(yields, error)
    errors[:2] = quiet.errors[:2]
    return Line(yields, errors)


def photon_numbers(intensity: float) -> Tensor:
    """Return the probabilities of 0, 1, ..., PHOTONS photons."""
    n = torch.arange(PHOTONS + 1, dtype=torch.float64)
    logarithm = torch.special.xlogy(n, torch.tensor(intensity, dtype=torch.float64)) - intensity - torch.lgamma(n + 1)
    return torch.exp(logarithm)


def simulate(source: Pulses, line: Line, count: int, generator: torch.Generator) -> tuple[list[Counts], Truth]:
    """Send pulses and return the counts of signal, weak and vacuum, and what is true of single photons."""
    seen, truth = [], torch.zeros(4, dtype=torch.float64)
    shares = torch.tensor(source.shares, dtype=torch.float64)
    for intensity, sent in zip(source.intensities, split(count, shares, generator), strict=True):
        pulses = split(float(sent), photon_numbers(intensity), generator)
        clicks = torch.binomial(pulses, line.yields, generator=generator)
        sifted = torch.binomial(clicks, torch.full_like(clicks, 0.5), generator=generator)
        wrong = torch.binomial(sifted, line.errors, generator=generator)
        numbers = torch.stack([pulses, clicks, sifted, wrong])
        seen.append(Counts(intensity, *(int(value) for value in numbers.sum(1))))
        truth += numbers[:, 1]
    return seen, Truth(*(int(value) for value in truth))


def split(count: float, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return how many of ``count`` fall to each weight: a multinomial draw, one binomial after the other."""
    parts, left, rest = [], torch.tensor(count, dtype=torch.float64), float(weights.sum())
    for weight in weights.tolist():
        share = min(1.0, weight / rest) if rest > 0 else 0.0
        parts.append(torch.binomial(left, torch.tensor(share, dtype=torch.float64), generator=generator))
        left, rest = left - parts[-1], rest - weight
    parts[-1] = parts[-1] + left  # rounding of the weights must not lose a pulse
    return torch.stack(parts)
