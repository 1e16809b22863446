"""Shamir's secret sharing: any t of n shares give the secret, fewer tell nothing about it.

    f(x) = s + a_1 x + ... + a_{t-1} x^{t-1}  mod P,   a_i uniform,   share of x: f(x),  x = 1 ... n
    s = f(0) = sum_i f(x_i) prod_{j != i} x_j / (x_j - x_i)                      from any t shares

Shamir 1979, over the prime field of P = 2^256 + 297, the first prime that holds every 32-byte key.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from dtheta.errors import ConfigError

PRIME = 2**256 + 297
SHARE_BYTES = 33
SECRET_BYTES = 32


def shares(secret: bytes, threshold: int, points: Iterable[int]) -> dict[int, bytes]:
    """Return a share of a 32-byte secret for every point; coefficients come from the operating system.

    Raises:
        ConfigError: If the secret has not 32 bytes, the points are not different and above 0, or the threshold is not
            from 1 to their number.
    """
    points = list(points)
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"a secret of {len(secret)} bytes; expected {SECRET_BYTES}")
    if len(set(points)) != len(points) or not all(0 < x < PRIME for x in points):
        raise ConfigError("the points of shares must be different whole numbers above 0")
    if not 1 <= threshold <= len(points):
        raise ConfigError(f"threshold {threshold} of {len(points)} shares; expected 1 to {len(points)}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _value(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in points}


def _value(coefficients: list[int], x: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


def recovered(found: Mapping[int, bytes], threshold: int) -> bytes | None:
    """Return the secret of ``threshold`` or more shares by point, or None if they are no shares of one secret.

    Fewer shares than it was shared with give another number: the caller must know it, as by a digest.
    """
    values = {x: int.from_bytes(share, "big") for x, share in found.items()}
    if len(values) < threshold or any(value >= PRIME for value in values.values()):
        return None
    used = dict(list(values.items())[:threshold])
    if any(_interpolated(used, x) != value for x, value in list(values.items())[threshold:]):
        return None
    secret = _interpolated(used, 0)
    return secret.to_bytes(SECRET_BYTES, "big") if secret < 2 ** (8 * SECRET_BYTES) else None


def _interpolated(values: Mapping[int, int], at: int) -> int:
    total = 0
    for x, value in values.items():
        above, below = value, 1
        for other in values:
            if other != x:
                above, below = above * (other - at) % PRIME, below * (other - x) % PRIME
        total = (total + above * pow(below, -1, PRIME)) % PRIME
    return total
