"""Kernels of networks: tangent vectors, what training does with them, and random features in place of layers."""

from dtheta.kernels import infinite as infinite
