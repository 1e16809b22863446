"""Associated Legendre functions, orthonormal on the sphere, and their derivatives: the tables of every transform.

    P_lm(mu) = (-1)^m sqrt((2l + 1) (l - m)! / (l + m)!) (1 - mu^2)^(m/2) d^m/dmu^m P_l(mu)

so that (1/2) int P_lm P_km dmu = 1 for l = k, else 0: P_lm exp(i m lon) has mean square 1 over the sphere. It is
sqrt(4 pi) times the orthonormal spherical harmonic of quantum mechanics, sign (-1)^m included (Condon, Shortley).

    upward in l:   P_lm = a_lm (mu P_{l-1,m} - P_{l-2,m} / a_{l-1,m}),  a_lm = sqrt((4 l^2 - 1) / (l^2 - m^2))

which is stable in float64; P_mm underflows to 0 near the poles only where all P_lm of use there are 0 too, up to
degrees of about 1,900 (Holmes and Featherstone 2002, J. Geodesy 76). Derivatives come from the ladder operators of
angular momentum, without division by cos(lat), so that rows at the poles are no exception.

Shape legend: O orders m, L degrees l, H latitudes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dtheta.core.sphere.grid import Vector

Table = npt.NDArray[np.float64]


def legendre(degree: int, order: int, colatitudes: Vector) -> Table:
    """Return P_lm at the colatitudes (radians), (order + 1, degree + 1, H); zero where l < m."""
    mu, sine = np.cos(colatitudes), np.sin(colatitudes)
    table = np.zeros((order + 1, degree + 1, len(mu)))
    sectoral = np.ones_like(mu)  # P_mm
    for m in range(min(order, degree) + 1):
        if m:
            sectoral = -np.sqrt((2 * m + 1) / (2 * m)) * sine * sectoral
        table[m, m] = sectoral
        for n in range(m + 1, degree + 1):
            below = table[m, n - 2] / _step(n - 1, m) if n > m + 1 else 0.0
            table[m, n] = _step(n, m) * (mu * table[m, n - 1] - below)
    return table


def _step(n: int, m: int) -> float:
    return float(np.sqrt((4 * n * n - 1) / (n * n - m * m)))


def derivatives(degree: int, order: int, colatitudes: Vector) -> tuple[Table, Table]:
    """Return m P_lm / cos(lat) and dP_lm / dlat at the colatitudes, each (order + 1, degree + 1, H).

    dP_lm/dcolat = (sqrt((l-m)(l+m+1)) P_{l,m+1} - sqrt((l+m)(l-m+1)) P_{l,m-1}) / 2
    m P_lm/sin(colat) = -sqrt((2l+1)/(2l-1)) (sqrt((l-m)(l-m-1)) P_{l-1,m+1} + sqrt((l+m)(l+m-1)) P_{l-1,m-1}) / 2
    """
    values = legendre(degree, order + 1, colatitudes)
    above = values[1:]
    below = np.concatenate((-values[1:2], values[:order]))  # P_{l,-1} = -P_{l,1}
    m = np.arange(order + 1.0)[:, None, None]
    n = np.arange(degree + 1.0)[None, :, None]
    inside = m <= n
    north = (_root((n + m) * (n - m + 1), inside) * below - _root((n - m) * (n + m + 1), inside) * above) / 2
    east = np.zeros_like(north)
    n, inside = n[:, 1:], inside[:, 1:]
    rungs = _root((n - m) * (n - m - 1), inside) * above[:, :-1] + _root((n + m) * (n + m - 1), inside) * below[:, :-1]
    east[:, 1:] = -np.sqrt((2 * n + 1) / (2 * n - 1)) * rungs / 2
    east[0] = 0.0
    return east, north


def _root(product: Table, inside: npt.NDArray[np.bool_]) -> Table:
    return np.sqrt(np.where(inside, product, 0.0))
