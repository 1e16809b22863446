"""Choices of random features that no estimate of finite variance exists for, refused with those that work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dtheta.core.arguments import number, whole
from dtheta.core.features.projections import PROJECTIONS, SOBOL_DIMENSIONS
from dtheta.core.features.sides import POWERS
from dtheta.core.features.spectra import SPECTRA
from dtheta.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dtheta.core.features.random_features import RandomFeatures

RELU = "relu"
_LEAST_TILT = -30.0  # the chance of a frequency above 0 under normal(tilt, 1) is 5e-198 there
_ONE_SIDED = ("x-trig", "w-trig")


def check(features: RandomFeatures) -> None:
    """Refuse fields that cannot be meant.

    Raises:
        ConfigError: Naming the field, what was found, and what would work.
        NonFinite: For a number that is NaN or infinite.
    """
    _known(features.function, (*SPECTRA, RELU), "function")
    _known(features.split, POWERS, "split")
    _known(features.projection, PROJECTIONS, "projection")
    whole(features.inputs, "inputs", 1)
    whole(features.count, "count", 1)
    _numbers(features)
    _split(features)
    _scalars(features)
    dimensions = features.inputs + 1
    if features.projection == "sobol" and dimensions > SOBOL_DIMENSIONS:
        raise ConfigError(
            f"a Sobol sequence of {dimensions} dimensions was asked for, and tables end at {SOBOL_DIMENSIONS}; use "
            "projection='orthogonal'"
        )


def _known(value: str, known: Iterable[str], what: str) -> None:
    known = list(known)
    if value not in known:
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise ConfigError(f"{what} is {value!r}; expected one of {', '.join(known)}{hint}")


def _numbers(features: RandomFeatures) -> None:
    for field in ("A", "balance", "tilt", "threshold"):
        number(getattr(features, field), field)
    if features.balance <= 0:
        raise ConfigError(f"balance is {features.balance}; expected more than 0 (it scales x by al and w by 1/al)")
    if features.A <= -0.125:
        raise ConfigError(f"A is {features.A}; expected more than -1/8, where the variance becomes infinite")


def _split(features: RandomFeatures) -> None:
    function, split = features.function, features.split
    if split == "positive" and function != "exp":
        raise ConfigError(
            f"{function} has no positive split: it is no mixture of real exponentials exp(a z) with a > 0. exp has "
            f"one; use split='symmetric' for {function}"
        )
    if split in _ONE_SIDED and function in ("exp", RELU):
        raise ConfigError(f"{function} has no {split} split, having no trigonometric factor; use split='symmetric'")
    if split in _ONE_SIDED and function in ("gelu", "tanh"):
        why = {"gelu": "at low frequencies", "tanh": "at high frequencies"}[function]
        raise ConfigError(
            f"{function} with the {split} split has infinite variance ({why}); use split='symmetric', or one of exp's, "
            "sin's, cos's or gaussian's one-sided estimates"
        )


def _scalars(features: RandomFeatures) -> None:
    function = features.function
    if function == "gelu" and not features.antithetic:
        raise ConfigError("gelu without antithetic rows has infinite variance; use antithetic=True, or leave it out")
    if features.tilt and function not in ("gaussian", "gelu", "tanh"):
        raise ConfigError(f"tilt is {features.tilt}, but {function} draws no frequencies; expected tilt=0")
    if function in ("gaussian", "gelu") and features.tilt < _LEAST_TILT:
        raise ConfigError(
            f"tilt is {features.tilt}; expected {_LEAST_TILT} or more, below which no frequency is drawn; the best one "
            "is 0 or above"
        )
    if function == "tanh" and features.tilt >= math.pi / 2:
        raise ConfigError(
            f"tilt is {features.tilt}; expected less than pi/2 for tanh, whose transform decays as exp(-pi omega / 2)"
        )
    if function == RELU and (features.A, features.balance) != (0, 1):
        raise ConfigError(
            "relu takes neither A nor balance: its arc-cosine features have no exponential; leave both out"
        )
    if function != RELU and features.threshold:
        raise ConfigError(f"threshold is {features.threshold}, but {function} has none; expected 0 (it is relu's)")
