"""Units: those that arrays tell are compared where both sides tell them, and nothing is counted where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dtheta.errors import ConfigError
from dtheta.score.ensemble import RMSE, Verification
from dtheta.score.ensemble.units import require_same_units, units_of


class Told(np.ndarray):
    """An array with attributes, as those of xarray and zarr have them."""

    attrs: dict[str, Any]


def told(unit: str | None, *shape: int) -> Told:
    found = np.ones(shape).view(Told)
    found.attrs = {} if unit is None else {"units": unit}
    return found


def verification(**units: str) -> Verification:
    return Verification([RMSE()], cells=(4,), channels=["z", "t"], units=units)


def test_units_are_those_of_the_attributes() -> None:
    assert units_of(told("m", 2), ["z", "t"]) == {"z": "m", "t": "m"}
    assert units_of(told(None, 2), ["z"]) == units_of(np.ones(2), ["z"]) == units_of(None, ["z"]) == {}


def test_only_what_both_tell_is_compared() -> None:
    require_same_units({"z": "m", "t": "K"}, {"z": "m", "q": "1"}, "a", "b")
    with pytest.raises(ConfigError, match="channel 't': a is in K, b in degC; convert one of them"):
        require_same_units({"z": "m", "t": "K"}, {"t": "degC"}, "a", "b")


@pytest.mark.parametrize(
    ("units", "forecast", "truth", "message"),
    [
        ({}, "m", "km", "channel 'z': the forecast at start 0, lead 6 is in m, the truth in km"),
        ({"t": "K"}, None, "m", "channel 't': what is counted is in K, the truth at start 0, lead 6 in m"),
        ({"t": "K"}, "m", None, "channel 't': the forecast at start 0, lead 6 is in m, the truth in K"),
    ],
)
def test_other_units_are_refused_and_not_counted(
    units: dict[str, str], forecast: str | None, truth: str | None, message: str
) -> None:
    found = verification(**units)
    with pytest.raises(ConfigError, match=message):
        found.update(0, 6, told(forecast, 3, 2, 4), told(truth, 2, 4))
    assert not found.entries


def test_the_same_units_and_those_that_are_not_told_count() -> None:
    found = verification(z="m")
    found.update(0, 6, told("m", 3, 2, 4), told(None, 2, 4))
    found.update(0, 12, told(None, 3, 2, 4), told("m", 2, 4))
    with pytest.raises(ConfigError, match="the truth at start 0, lead 18 in km"):
        found.gather(0, 18, told("km", 2, 4))
    assert len(found.entries) == 2
