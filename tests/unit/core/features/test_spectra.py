"""Spectra: the mixtures are the functions, and frequencies follow the density that their weights divide by."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.features.moments import FUNCTIONS
from dtheta.core.features.spectra import SPECTRA

DRAWN = [spectrum for spectrum in SPECTRA.values() if spectrum.drawn]
tilts = st.floats(-0.5, 1.2)


def grid(top: float, steps: int = 200_000) -> tuple[torch.Tensor, float]:
    """Midpoints v of (0, sqrt(top)) and their distance, for an integral over omega = v^2."""
    width = math.sqrt(top) / steps
    return (torch.arange(steps, dtype=torch.float64) + 0.5) * width, width


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=lambda spectrum: spectrum.name)
@given(tilt=tilts)
def test_the_mixture_is_the_function(spectrum, tilt):
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)
    if spectrum.drawn:
        v, width = grid(60.0, 20_000)
        omega = v * v
        mass = (spectrum.log_weights(omega, tilt) + spectrum.log_density(omega, tilt)).exp() * 2 * v * width
    else:
        omega, mass = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    waves = torch.exp((1 if spectrum.real else 1j) * omega * z[:, None]) - float(spectrum.centered)
    found = spectrum.slope * z + ((spectrum.turn * waves).real * mass).sum(1)
    torch.testing.assert_close(found, FUNCTIONS[spectrum.name](z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spectrum", DRAWN, ids=lambda spectrum: spectrum.name)
@pytest.mark.parametrize("tilt", [-0.4, 0.0, 1.1])
def test_frequencies_are_the_quantiles_of_their_density(spectrum, tilt):
    v, width = grid(120.0)
    density = spectrum.log_density(v * v, tilt).exp() * 2 * v * width
    cumulative = density.cumsum(0)
    assert float(cumulative[-1]) == pytest.approx(1, abs=1e-6)
    quantiles = torch.tensor([0.02, 0.3, 0.5, 0.9, 0.999], dtype=torch.float64)
    omega = spectrum.frequencies(quantiles, tilt)
    order = omega.sort().values
    found = cumulative[torch.searchsorted(v, order.sqrt()) - 1]
    # tanh takes its quantiles upward, the others too: quantile and probability agree
    torch.testing.assert_close(found, quantiles, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "tanh"])
@pytest.mark.parametrize(("linear", "tilt"), [(0.0, 0.0), (1.2, 0.3), (1.0, 0.5)])
def test_the_mean_frequency_is_weighted_by_second_moments(name, linear, tilt):
    v, width = grid(200.0)
    spectrum, omega = SPECTRA[name], v * v
    log_square = 2 * spectrum.log_weights(omega, tilt) + spectrum.log_density(omega, tilt) + linear * omega
    if name == "tanh":  # the form near omega = 0 is left out: 1/sinh as 2 exp(-pi omega / 2), times sqrt(omega)
        log_square += 2 * torch.log(-torch.expm1(-math.pi * omega)) - omega.log()
    mass = log_square.exp() * 2 * v * width
    assert spectrum.mean_frequency(linear, tilt) == pytest.approx(float((mass * omega).sum() / mass.sum()), rel=1e-3)


@pytest.mark.parametrize("spectrum", DRAWN, ids=lambda spectrum: spectrum.name)
def test_weights_stay_finite_at_extreme_quantiles(spectrum):
    quantiles = torch.tensor([2.0**-31, 1e-12, 1 - 2.0**-31], dtype=torch.float64)
    omega = spectrum.frequencies(quantiles, 0.0)
    assert bool((omega > 0).all()) and bool(spectrum.log_weights(omega, 0.0).isfinite().all())


def test_growth_decides_what_is_finite():
    def finite(name, linear, quadratic, tilt=0.0):
        linear, quadratic = torch.tensor([linear]), torch.tensor([quadratic])
        return bool(SPECTRA[name].finite(linear, quadratic, tilt))

    assert finite("tanh", 1.5, 0.0) and not finite("tanh", 1.6, 0.0) and finite("tanh", 1.6, 0.0, tilt=0.5)
    assert not finite("tanh", 0.1, 0.01)
    assert finite("gaussian", 50.0, 0.49) and not finite("gaussian", 0.0, 0.5)
    assert finite("sin", 50.0, 50.0)
