"""Units: bytes, counts, seconds and shares as plain ASCII text."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def byte_size(value: float) -> str:
    """Return bytes in decimal units: 1.18 MB."""
    unit = 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if unit else f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Return seconds as 0.4 s, 38 s, 3 min 12 s, 2 h 5 min."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """Return ``1 round``, ``3 rounds``."""
    return f"{count(number)} {noun if number == 1 else many or noun + 's'}"


def count(value: int) -> str:
    """Return a whole number with separators: 22,713,216."""
    return f"{value:,}"


def part(share: float) -> str:
    """Return a share as percent with two digits at least, so that a small one is not shown as none: 0.0017 %."""
    return f"{100 * share:.2g} %" if 0 < abs(share) < 1e-3 else percent(share, 2)


def percent(share: float, decimals: int = 1) -> str:
    """Return a share as percent: 94.3 %."""
    return f"{100 * share:.{decimals}f} %"
