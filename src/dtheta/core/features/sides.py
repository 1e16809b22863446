"""The two maps of random features in real arithmetic: that of inputs and that of weights.

A side has the factor r = scale turn, turn a power of i (r = rho for inputs, eta for weights). With s = sqrt(1 + 4A):

    Lam_g(r z) = exp(shift + Re(turn) scale s g.z - Re(turn^2) scale^2 |z|^2 / 2)     amplitude
               * exp(i (Im(turn) scale s g.z - Im(turn^2) scale^2 |z|^2 / 2))         phase; none where turn is 1

Shape legend: z (N, d), rows (m, d), every table (M,), M = 2m with -g beside g and m without.
"""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dtheta.core.features.random_features import Draws, RandomFeatures
    from dtheta.core.features.spectra import Spectrum

POWERS = {"symmetric": 0.5, "x-trig": 1.0, "w-trig": 0.0, "positive": 0.5}  # rho = al a^power, eta = a^(1 - power) / al


class Turn(NamedTuple):
    """A power of i and its square, with the zeros exact."""

    real: float
    imaginary: float
    square_real: float
    square_imaginary: float


_TURNS = {0.0: Turn(1, 0, 1, 0), 0.5: Turn(math.sqrt(0.5), math.sqrt(0.5), 0, 1), 1.0: Turn(0, 1, -1, 0)}


def turn_of(features: RandomFeatures, on_inputs: bool) -> Turn:
    """Return the turn of rho (inputs) or of eta (weights)."""
    power = POWERS[features.split] if on_inputs else 1 - POWERS[features.split]
    return _TURNS[0.0 if features.spectrum is None or features.spectrum.real else power]


def scale_of(features: RandomFeatures, omega: Tensor, on_inputs: bool) -> Tensor:
    """Return the scale of rho (inputs) or of eta (weights) at every frequency."""
    power = POWERS[features.split]
    return omega.pow(power) * features.balance if on_inputs else omega.pow(1 - power) / features.balance


class Side:
    """The map of one side with its tables, to be called on parts of a batch."""

    def __init__(self, features: RandomFeatures, draws: Draws, on_inputs: bool) -> None:
        self.features, self.rows, self.turn = features, draws.rows, turn_of(features, on_inputs)
        scale = scale_of(features, draws.frequencies, on_inputs)
        linear, self.square = scale * math.sqrt(1 + 4 * features.A), self._both(scale.square() / 2)
        self.linear = torch.cat([linear, -linear]) if features.antithetic else linear
        self.shift, self.omega = self._both(draws.shift), self._both(draws.frequencies)

    def _both(self, table: Tensor) -> Tensor:
        return torch.cat([table, table], -1) if self.features.antithetic else table

    def amplitude_and_phase(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return amplitude and phase (None for 0) of Lam (N, M)."""
        return self.of_projection(z @ self.rows.mT, z.square().sum(1, keepdim=True))

    def of_projection(self, projected: Tensor, norms: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return them from g.z (N, m) and |z|^2 (N, 1), all that they depend on."""
        turn, projected = self.turn, self._both(projected)
        exponent = torch.addcmul(self.shift, projected, self.linear * turn.real) if turn.real else self.shift
        if turn.square_real:
            exponent = torch.addcmul(exponent, norms, self.square, value=-turn.square_real)
        phase = projected * (self.linear * turn.imaginary) if turn.imaginary else None
        if phase is not None and turn.square_imaginary:
            phase = torch.addcmul(phase, norms, self.square, value=-turn.square_imaginary)
        return exponent.exp(), phase


def input_features(side: Side, spectrum: Spectrum, x: Tensor) -> Tensor:
    """Return phi (N, width): [Re Lam, -Im Lam], or Lam where it is real; then x and 1 for a linear part."""
    found = real_form(*side.amplitude_and_phase(x))
    return torch.cat([found, x, x.new_ones(x.shape[0], 1)], dim=1) if spectrum.slope else found


def real_form(amplitude: Tensor, phase: Tensor | None) -> Tensor:
    """Return [Re Lam, -Im Lam], or Lam where it is real."""
    return amplitude if phase is None else torch.cat([amplitude * phase.cos(), amplitude * -phase.sin()], dim=1)


def weight_features(side: Side, spectrum: Spectrum, W: Tensor, b: Tensor) -> Tensor:
    """Return psi (l, width): [Re, Im] of Lam c exp(a b), or its real part where phi is real; then the linear part."""
    amplitude, phase = side.amplitude_and_phase(W)
    weights = spectrum.log_weights(side.omega, side.features.tilt).exp()
    if spectrum.real:
        return amplitude * b.exp().unsqueeze(1)
    turned = torch.outer(b, side.omega) + cmath.phase(spectrum.turn)
    phase = turned if phase is None else phase + turned
    parts = [amplitude * weights * phase.cos()]
    if turn_of(side.features, on_inputs=True).imaginary:
        parts.append(amplitude * weights * phase.sin())
    if spectrum.slope:
        parts += [spectrum.slope * W, (spectrum.slope * b + _constant(side, spectrum, weights)).unsqueeze(1)]
    return torch.cat(parts, dim=1)


def _constant(side: Side, spectrum: Spectrum, weights: Tensor) -> float:
    # what Re(c Lam Lam) is at z = 0 and omega = 0, row by row: the weights grow as omega^-2, so with any other constant
    # of the same mean, such as that of A = 0, small frequencies would not cancel
    if not spectrum.centered:
        return 0.0
    return -spectrum.turn.real * float((weights.double() * (2 * side.shift.double()).exp()).sum())


def relu_of_inputs(features: RandomFeatures, draws: Draws, x: Tensor) -> Tensor:
    """Return max(G x, threshold) / sqrt(m), (N, M), with 1 as the last coordinate of x if there is a bias."""
    rows, last = (draws.rows[:, :-1], draws.rows[:, -1]) if features.bias else (draws.rows, None)
    return rectified(features, torch.nn.functional.linear(x, rows, last))


def relu_of_weights(features: RandomFeatures, draws: Draws, W: Tensor, b: Tensor | None) -> Tensor:
    """Return max(G w, threshold) / sqrt(m), (l, M), with b (l,) as the last coordinate of w."""
    projected = W @ draws.rows[:, : W.shape[1]].mT
    return rectified(features, projected if b is None else projected + torch.outer(b, draws.rows[:, -1]))


def rectified(features: RandomFeatures, projected: Tensor) -> Tensor:
    """Return the features of ReLU from the projection (N, m)."""
    if features.antithetic:
        projected = torch.cat([projected, -projected], dim=1)
    return projected.clamp(min=features.threshold) / math.sqrt(projected.shape[1])
