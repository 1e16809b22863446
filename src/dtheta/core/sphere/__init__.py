"""The sphere: grids, spherical harmonic transforms and vector analysis; imported by solvers, networks and scores."""

from dtheta.core.sphere.grid import Grid
from dtheta.core.sphere.transform import SphericalTransform, power_spectrum
from dtheta.core.sphere.vector import VectorTransform, inverse_laplacian, laplacian

__all__ = ["Grid", "SphericalTransform", "VectorTransform", "inverse_laplacian", "laplacian", "power_spectrum"]
