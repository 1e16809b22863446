"""Quantities as text: one place that decides digits, units and separators, so that a page never mixes them.

A narrow no-break space stands between number and unit, so that a line never breaks inside a quantity.
"""

from __future__ import annotations

import math

THIN = "\u202f"
MINUS = "\u2212"
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def significant(value: float, digits: int = 4, pad: bool = False) -> str:
    """``value`` to ``digits`` significant digits: 0.01234, 12.3, 1,235, 1.2e-07; a dash for NaN.

    ``pad`` keeps trailing zeros, for columns of a table.
    """
    if math.isnan(value):
        return "\u2013"
    if value == 0 or math.isinf(value):
        return typographic(f"{value:g}")
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent >= 9:
        return typographic(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - exponent)
    text = f"{value:,.{decimals}f}"
    return typographic(text.rstrip("0").rstrip(".") if "." in text and not pad else text)


def fixed(value: float, decimals: int) -> str:
    """``value`` with exactly ``decimals`` places and a thousands separator."""
    return typographic(f"{value:,.{decimals}f}")


def count(value: float) -> str:
    """A whole number with thousands separators."""
    return fixed(value, 0)


def percent(share: float, decimals: int = 1) -> str:
    """A share in [0, 1] as percent."""
    return f"{fixed(100 * share, decimals)}{THIN}%"


def part(share: float) -> str:
    """A share as percent with two digits at least, so that a small one does not read as none: 0.0017 %."""
    return f"{significant(100 * share, 2)}{THIN}%" if 0 < abs(share) < 1e-3 else percent(share, 2)


def signed(value: float, decimals: int) -> str:
    """``value`` with its sign, also where that is a plus; what rounds to zero is +0."""
    text = fixed(value, decimals)
    return text if text.startswith(MINUS) else f"+{text}"


def byte_size(value: float) -> str:
    """Bytes in decimal units: 1.18 MB."""
    unit = 0
    while abs(value) >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{significant(value, 3) if unit else count(value)}{THIN}{_BYTE_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Seconds as 0.42 s, 38 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 10:
        return f"{significant(seconds, 2)}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min" + (f" {whole % 60}{THIN}s" if whole % 60 else "")
    return f"{whole // 3600}{THIN}h" + (f" {whole % 3600 // 60}{THIN}min" if whole % 3600 // 60 else "")


def plural(number: int, noun: str, many: str | None = None) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def listed(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def typographic(text: str) -> str:
    """A typographic minus; a negative zero loses its sign."""
    if text.startswith("-") and not text.strip("-0.,"):
        return text[1:]
    return text.replace("-", MINUS)
