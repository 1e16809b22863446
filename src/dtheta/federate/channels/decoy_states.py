"""Decoy states: pulses of several intensities bound what single-photon pulses do, whoever is on the line.

    Y_1 >= mu / (mu nu - nu^2) [Q_nu e^nu - Q_mu e^mu nu^2 / mu^2 - (mu^2 - nu^2) / mu^2 Y_0]
    e_1 <= (E_nu Q_nu e^nu - e_0 Y_0) / (Y_1 nu)
    R   >= 1/2 {-Q_mu f h(E_mu) + Q_1 [1 - h(e_1)]},     Q_1 = Y_1 mu e^-mu          secret bits a signal pulse

mu signal, nu weak, vacuum gives Y_0; e_0 = 1/2, f = 1.16. An eavesdropper does not know the intensity of a pulse, only
its photons: the yields Y_n are the same for all intensities, and that is all the bounds assume. Ma, Qi, Zhao and Lo
2005 (arXiv quant-ph/0503005), equations 34, 37 and 1. Every rate enters at the end of its interval that makes the bound
weaker, so that the bounds hold for finite counts too, each with about the confidence of the intervals together; a
shorter key's own security parameters are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dtheta.federate.channels.bb84 import EFFICIENCY, binary_entropy
from dtheta.federate.channels.pulses import DARK_ERROR, Counts
from dtheta.score import wilson


@dataclass(frozen=True)
class Bounds:
    """What is known of single-photon pulses.

    Attributes:
        single_yield: Lower bound of Y_1.
        single_error: Upper bound of e_1, at most 1/2.
        vacuum_yield: Interval of Y_0.
    """

    single_yield: float
    single_error: float
    vacuum_yield: tuple[float, float]


def bounds(signal: Counts, weak: Counts, vacuum: Counts, level: float) -> Bounds:
    """Return the bounds from counts.

    Args:
        signal: Counts of the pulses that make the key.
        weak: Those of weaker ones.
        vacuum: Those of pulses without photons.
        level: Confidence of each of the four intervals that enter.
    """
    mu, nu = signal.intensity, weak.intensity
    dark = _interval(vacuum.clicks, vacuum.pulses, level)
    signal_gain, weak_gain = _interval(signal.clicks, signal.pulses, level), _interval(weak.clicks, weak.pulses, level)
    weak_wrong = 2 * _interval(weak.errors, weak.pulses, level)[1]  # E Q; half of the wrong clicks are sifted out
    ratio = (nu / mu) ** 2
    inside = weak_gain[0] * math.exp(nu) - signal_gain[1] * math.exp(mu) * ratio - (1 - ratio) * dark[1]
    single_yield = min(1.0, max(0.0, mu / (mu * nu - nu * nu) * inside))
    wrong = max(0.0, weak_wrong * math.exp(nu) - DARK_ERROR * dark[0])
    single_error = min(0.5, wrong / (single_yield * nu)) if single_yield else 0.5
    return Bounds(single_yield, single_error, dark)


def _interval(count: int, of: int, level: float) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    found = wilson(count, of, level)
    return found.low, found.high


def pulse_key_rate(
    signal: float, gain: float, error: float, single_yield: float, single_error: float, efficiency: float = EFFICIENCY
) -> float:
    """Return R, the secret bits a signal pulse; not positive where no key is left.

    Args:
        signal: Mean photons.
        gain: Q_mu.
        error: E_mu.
        single_yield: Y_1, or its lower bound.
        single_error: e_1, or its upper bound.
        efficiency: f of error correction.
    """
    single = single_yield * signal * math.exp(-signal) * (1 - binary_entropy(min(0.5, single_error)))
    return (single - gain * efficiency * binary_entropy(min(0.5, error))) / 2
