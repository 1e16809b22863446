"""Student's t distribution: cumulative probability and quantile, in plain double precision.

    P(T <= t) = 1 - I_x(n/2, 1/2) / 2,   x = n / (n + t^2),   t >= 0,   n degrees of freedom

I is the regularized incomplete beta function, by its continued fraction (Abramowitz & Stegun 26.5.8, 26.7.1) with the
modified Lentz recurrence. Here so that intervals need neither SciPy nor a table; agrees with SciPy to 1e-9.
"""

from __future__ import annotations

import math

from dtheta.errors import ConfigError, NotConverged

_TINY = 1e-300
_TERMS = 10_000


def student_cdf(t: float, freedom: float) -> float:
    """P(T <= t) for Student's t with ``freedom`` > 0 degrees of freedom."""
    far = freedom / (freedom + t * t)
    near = t * t / (freedom + t * t)
    if far < near:
        tail = 0.5 * incomplete_beta(freedom / 2, 0.5, far, near)
        return 1 - tail if t > 0 else tail
    # Around 0 the tail is almost 1/2 and its argument almost 1: the center's share keeps the digits.
    return 0.5 + math.copysign(0.5 * incomplete_beta(0.5, freedom / 2, near, far), t)


def student_quantile(probability: float, freedom: float) -> float:
    """The t with P(T <= t) = ``probability`` in (0, 1); bisection to the last bits of a double."""
    if not 0 < probability < 1 or not freedom > 0:
        raise ConfigError(f"student_quantile: probability {probability} must be in (0, 1), freedom {freedom} positive")
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Regularized I_x(a, b) with y = 1 - x given, so that neither loses digits; by the faster of two fractions."""
    if x == 0.0:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, y) / b


def _fraction(a: float, b: float, x: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))) with the coefficients of the incomplete beta function."""
    numerator, denominator = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for coefficient in (even, odd):
            denominator = 1 / _away(1 + coefficient * denominator)
            numerator = _away(1 + coefficient / numerator)
            step = denominator * numerator
            value *= step
        if abs(step - 1) < 1e-15:
            return value
    raise NotConverged(f"incomplete beta fraction at a={a}, b={b}, x={x}: {_TERMS} terms were not enough")


def _away(value: float) -> float:
    """Lentz's guard: a zero divisor becomes tiny."""
    return value if abs(value) > _TINY else _TINY
