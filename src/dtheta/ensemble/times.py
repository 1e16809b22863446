"""Times of a start: a date, or a bare number for flows without a calendar.

A date in a time zone is brought to UTC, one without is in UTC already. As it enters the keys of draws, a date is
written in full to the second, so that every way to say it gives one bit for bit equal ensemble.
"""

from __future__ import annotations

import datetime
import numbers
import re
from typing import Any, TypeAlias

import numpy as np

from dtheta.errors import ConfigError

_ZONED = re.compile(r"[T ].*(Z|[+-]\d\d:?(\d\d)?)\s*$", re.IGNORECASE)
_YEARS = 8000  # from 1970; digits without hyphens, such as 20200131, are read as a year
Time: TypeAlias = "int | str | datetime.datetime | np.datetime64"


def start_time(value: Any) -> int | np.datetime64:
    """Return a number as it is, and a date in UTC to the second.

    Raises:
        ConfigError: for something else.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, (str, datetime.date, np.datetime64)):
        try:
            date: Any = _in_utc(value)
            found = np.datetime64(date, "s")
        except (TypeError, ValueError, OverflowError):
            found = np.datetime64("NaT")
        if not np.isnat(found) and np.abs(found.astype("datetime64[Y]").astype(int)) < _YEARS:
            return found
    raise ConfigError(f"time is {value!r}; expected a date, such as '2020-01-31T06:00', or a whole number")


def _in_utc(value: Any) -> Any:
    """Return a date without its time zone, in UTC; one that has none as it is."""
    zoned = isinstance(value, str) and _ZONED.search(value)
    date = datetime.datetime.fromisoformat(value.strip().upper()) if zoned else value
    if not isinstance(date, datetime.datetime) or date.tzinfo is None:
        return value
    return date.astimezone(datetime.UTC).replace(tzinfo=None)


def moved(time: int | np.datetime64, hours: float) -> np.datetime64 | None:
    """Return a date so many hours later; None for a start that is a number."""
    return time + np.timedelta64(round(3600 * hours), "s") if isinstance(time, np.datetime64) else None
