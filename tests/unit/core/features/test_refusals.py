"""Refusals: what has no estimate of finite variance names what has one."""

import pytest
import torch

from dtheta.core.features import RandomFeatures
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": "gleu"}, "expected one of exp, .*relu; did you mean 'gelu'"),
        ({"split": "one-sided"}, "expected one of symmetric, x-trig, w-trig, positive"),
        ({"projection": "Sobol"}, "expected one of gaussian, orthogonal, sobol; did you mean 'sobol'"),
        ({"function": None}, "function is None"),
        ({"inputs": 0}, "inputs is 0; expected a whole number, 1 or more"),
        ({"count": 2.5}, "count is 2.5"),
        ({"function": "sin", "split": "positive"}, "sin has no positive split.* use split='symmetric'"),
        ({"function": "relu", "split": "positive"}, "relu has no positive split"),
        ({"function": "exp", "split": "x-trig"}, "exp has no x-trig split"),
        ({"function": "relu", "split": "w-trig"}, "relu has no w-trig split"),
        ({"function": "gelu", "split": "x-trig"}, r"infinite variance \(at low frequencies\)"),
        ({"function": "tanh", "split": "w-trig"}, r"infinite variance \(at high frequencies\)"),
        ({"function": "gelu", "antithetic": False}, "use antithetic=True"),
        ({"balance": 0.0}, "balance is 0.0; expected more than 0"),
        ({"A": -0.125}, "A is -0.125; expected more than -1/8"),
        ({"tilt": 0.5}, "exp draws no frequencies; expected tilt=0"),
        ({"function": "gelu", "tilt": -100.0}, "tilt is -100.0; expected -30.0 or more"),
        ({"function": "gaussian", "tilt": -31.0}, "tilt is -31.0"),
        ({"function": "tanh", "tilt": 1.58}, "expected less than pi/2"),
        ({"function": "relu", "A": 0.1}, "relu takes neither A nor balance"),
        ({"function": "relu", "balance": 2.0}, "relu takes neither A nor balance"),
        ({"threshold": -1.0}, "exp has none; expected 0"),
        ({"inputs": 30_000, "projection": "sobol"}, "use projection='orthogonal'"),
    ],
)
def test_choices_that_cannot_be_meant(options, message):
    with pytest.raises(ConfigError, match=message):
        RandomFeatures(**({"function": "exp", "inputs": 3, "count": 2} | options))


@pytest.mark.parametrize("field", ["A", "balance", "tilt", "threshold"])
def test_numbers_are_finite(field):
    with pytest.raises(NonFinite, match=field):
        RandomFeatures("gelu", 3, 2, **{field: float("nan")})


def test_tensors_that_do_not_fit():
    features = RandomFeatures("sin", 3, 2)
    with pytest.raises(ShapeMismatch, match=r"3 inputs were given a tensor \(2, 4\)"):
        features.phi(torch.zeros(2, 4))
    with pytest.raises(ShapeMismatch, match=r"weights are W \(2, 3\) and b \(3,\)"):
        features.psi(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ShapeMismatch, match="weights are W"):
        features.psi(torch.zeros(1, 2, 3))
    with pytest.raises(ConfigError, match="floating-point"):
        features.phi(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ConfigError, match="expected bias=True"):
        RandomFeatures("sin", 3, 2, bias=False).psi(torch.zeros(2, 3), torch.zeros(2))


def test_weights_that_overflow():
    with pytest.raises(NonFinite, match="largest norm of a row is 1732"):
        RandomFeatures("sin", 3, 2).psi(torch.full((1, 3), 1e3))


def test_a_threshold_has_no_closed_form():
    features = RandomFeatures("relu", 3, 2, threshold=-1.0)
    for formula in (features.kernel, features.variance):
        with pytest.raises(ConfigError, match="closed form at threshold 0 only"):
            formula(torch.zeros(1, 3), torch.zeros(1, 3))


def test_a_projection_needs_norms():
    features = RandomFeatures("sin", 3, 2)
    with pytest.raises(ConfigError, match="give norms"):
        features.phi_projected(torch.zeros(1, 2), None, features.draws())
