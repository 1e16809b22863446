"""Weak pulses: sums over photon numbers, simulated counts, and the decoy-state bounds against the simulated truth."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.federate.channels.bb84 import binary_entropy
from dtheta.federate.channels.decoy_states import Bounds, bounds, pulse_key_rate
from dtheta.federate.channels.eavesdropper import InterceptResend, PhotonNumberSplitting
from dtheta.federate.channels.pulses import (
    Counts,
    Pulses,
    error_rate,
    gain,
    photon_numbers,
    quiet_line,
    simulate,
    split,
    tapped_line,
)
from dtheta.score import wilson

LINES = [
    pytest.param(0.1, 1e-5, 0.01, None, id="quiet"),
    pytest.param(0.001, 1e-5, 0.03, None, id="far"),
    pytest.param(1.0, 0.0, 0.0, None, id="perfect"),
    pytest.param(0.1, 1e-5, 0.01, InterceptResend(0.5), id="intercepted"),
    pytest.param(0.1, 1e-5, 0.01, PhotonNumberSplitting(0.3), id="split"),
]


def _sent(eta, dark, error, eavesdropper, seed=0, count=10**9):
    source = Pulses(count=count)
    line = tapped_line(eavesdropper, source.signal, eta, dark, error)
    return source, line, *simulate(source, line, source.count, generator(seed, "pulses"))


@pytest.mark.parametrize("intensity", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("eta", "dark", "error"), [(0.1, 1e-5, 0.01), (1.0, 0.0, 0.0), (0.0, 1e-3, 0.2)])
def test_gains_and_errors_are_sums_over_photon_numbers(intensity, eta, dark, error):
    line, weights = quiet_line(eta, dark, error), photon_numbers(intensity)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert float(weights @ line.yields) == pytest.approx(gain(intensity, eta, dark), abs=1e-12)
    wrong = float(weights @ (line.yields * line.errors))
    assert wrong == pytest.approx(gain(intensity, eta, dark) * error_rate(intensity, eta, dark, error), abs=1e-12)


def test_gain_is_that_of_the_textbook_up_to_dark_times_transmittance():
    assert gain(0.5, 0.1, 1e-5) == pytest.approx(1e-5 + 1 - math.exp(-0.05), abs=1e-5 * 0.05)


def test_split_is_a_multinomial_draw():
    weights = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    parts = torch.stack([split(10_000, weights, generator(i, "split")) for i in range(300)])
    assert (parts.sum(1) == 10_000).all()
    spread = (10_000 * weights * (1 - weights)).sqrt()
    assert ((parts.mean(0) - 10_000 * weights).abs() < 4 * spread / math.sqrt(300)).all()
    assert ((parts.std(0) / spread - 1).abs() < 0.2).all()


@pytest.mark.parametrize(("eta", "dark", "error", "eavesdropper"), LINES)
def test_counts_follow_the_line(eta, dark, error, eavesdropper):
    _, line, counts, truth = _sent(eta, dark, error, eavesdropper)
    assert sum(c.pulses for c in counts) == 10**9
    for c in counts:
        expected = float(photon_numbers(c.intensity) @ line.yields)
        assert abs(c.clicks / c.pulses - expected) <= 4 * math.sqrt(expected / c.pulses) + 1e-12
        assert abs(c.sifted - c.clicks / 2) <= 4 * math.sqrt(c.clicks) / 2
    assert abs(truth.clicks / truth.pulses - float(line.yields[1])) < 4 * math.sqrt(1 / truth.pulses)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("eta", "dark", "error", "eavesdropper"), LINES)
def test_bounds_hold_against_the_simulated_truth(eta, dark, error, eavesdropper, seed):
    _, _, counts, truth = _sent(eta, dark, error, eavesdropper, seed)
    found = bounds(*counts, level=0.999)
    assert found.single_yield <= truth.clicks / truth.pulses
    assert found.single_error >= truth.errors / truth.sifted
    assert found.vacuum_yield[0] <= dark <= found.vacuum_yield[1]


def test_bounds_are_near_the_truth_with_many_pulses():
    _, line, counts, _ = _sent(0.1, 1e-5, 0.01, None, count=10**11)
    found = bounds(*counts, level=0.999)
    assert found.single_yield > 0.95 * float(line.yields[1])
    assert found.single_error < 1.2 * float(line.errors[1])


def test_exact_rates_give_the_bounds_of_the_paper():
    mu, nu, eta, dark, error = 0.5, 0.1, 0.1, 1e-5, 0.01
    pulses = 10**15

    def counts(intensity: float) -> Counts:
        clicks = gain(intensity, eta, dark) * pulses
        wrong = clicks * error_rate(intensity, eta, dark, error) / 2
        return Counts(intensity, pulses, round(clicks), round(clicks / 2), round(wrong))

    q_mu, q_nu = gain(mu, eta, dark), gain(nu, eta, dark)
    y1 = mu / (mu * nu - nu**2)
    y1 *= q_nu * math.exp(nu) - q_mu * math.exp(mu) * nu**2 / mu**2 - (mu**2 - nu**2) / mu**2 * dark
    e1 = (error_rate(nu, eta, dark, error) * q_nu * math.exp(nu) - 0.5 * dark) / (y1 * nu)
    found = bounds(counts(mu), counts(nu), counts(0.0), level=0.9)
    assert found.single_yield == pytest.approx(y1, rel=1e-4)
    assert found.single_error == pytest.approx(e1, rel=1e-4)


def test_every_rate_enters_at_the_end_that_weakens_the_bound():
    signal, weak, vacuum = (
        Counts(0.5, 9000, 500, 240, 9),
        Counts(0.1, 8000, 400, 190, 8),
        Counts(0.0, 9000, 30, 15, 7),
    )
    level, mu, nu = 0.9, 0.5, 0.1
    q_mu = wilson(500, 9000, level).high
    q_nu = wilson(400, 8000, level).low
    dark = wilson(30, 9000, level)
    y1 = mu / (mu * nu - nu**2)
    y1 *= q_nu * math.exp(nu) - q_mu * math.exp(mu) * nu**2 / mu**2 - (mu**2 - nu**2) / mu**2 * dark.high
    e1 = (2 * wilson(8, 8000, level).high * math.exp(nu) - 0.5 * dark.low) / (y1 * nu)
    found = bounds(signal, weak, vacuum, level)
    assert found.single_yield == pytest.approx(y1) and found.single_error == pytest.approx(e1) and 0 < e1 < 0.5


def test_splitting_keeps_the_gain_and_the_errors_of_the_signal_and_lowers_those_of_decoys():
    quiet, split_ = (_sent(0.1, 1e-5, 0.01, who)[2] for who in (None, PhotonNumberSplitting()))
    for one, other in zip(quiet[:1], split_[:1], strict=True):
        assert abs(one.clicks - other.clicks) < 5 * math.sqrt(one.clicks + other.clicks)
        assert abs(one.errors - other.errors) < 5 * math.sqrt(one.errors + other.errors)
    assert split_[1].clicks < 0.5 * quiet[1].clicks
    assert bounds(*split_, level=0.999) == Bounds(0.0, 0.5, bounds(*split_, level=0.999).vacuum_yield)


def test_nobody_can_forward_more_than_every_pulse():
    # over a short line the many single photons cannot be made up for: fewer signals arrive
    line = tapped_line(PhotonNumberSplitting(), 0.5, 0.9, 0.0, 0.0)
    assert float(line.yields.max()) == 1.0
    assert float(photon_numbers(0.5) @ line.yields) < gain(0.5, 0.9, 0.0)


def test_key_rate():
    rate = pulse_key_rate(0.5, 0.05, 0.01, 0.1, 0.012)
    single = 0.1 * 0.5 * math.exp(-0.5)
    expected = 0.5 * (-0.05 * 1.16 * binary_entropy(0.01) + single * (1 - binary_entropy(0.012)))
    assert rate == pytest.approx(expected)
    assert pulse_key_rate(0.5, 0.05, 0.01, 0.0, 0.5) < 0


def test_no_pulses_bound_nothing():
    empty = [Counts(intensity, 0, 0, 0, 0) for intensity in (0.5, 0.1, 0.0)]
    assert bounds(*empty, level=0.99) == Bounds(0.0, 0.5, (0.0, 1.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"signal": 0.1, "weak": 0.5},
        {"signal": 2.0},
        {"weak": 0.0},
        {"shares": (0.5, 0.5, 0.0)},
        {"shares": (0.5, 0.5, 0.5)},
        {"shares": (0.5, 0.5)},
        {"dark": -0.1},
        {"count": 0},
        {"count": True},
    ],
)
def test_what_cannot_be_a_source_is_refused(fields):
    with pytest.raises(ConfigError):
        Pulses(**fields)
