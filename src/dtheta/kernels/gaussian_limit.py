"""What training makes of all initializations at once, in the limit of infinite width: a Gaussian process.

    f_0 ~ N(0, Sigma)                                    Sigma the NNGP kernel, Theta the tangent kernel
    f_t(x) = f_0(x) + A (y - f_0(X)),                    A = Theta_xX Theta^-1 (1 - exp(-Theta t / D))
    mean = A y
    covariance = Sigma_xx + A Sigma_XX A^T - A Sigma_Xx - Sigma_xX A^T

Jacot, Gabriel and Hongler 2018 (arXiv 1806.07572), section 5; Lee et al. 2019 (arXiv 1902.06720), equations 14 to 16.
Outputs are independent and share both kernels.

Shape legend: n training points, m new points, o outputs, s samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.dynamics import Average, checked_time, loss_divisor, spectrum
from dtheta.kernels.filters import Flow
from dtheta.kernels.matrices import TOLERANCE, checked_gram, checked_targets


@dataclass(frozen=True, eq=False)
class GaussianLimit:
    """Outputs of infinitely wide networks on m points: ``mean`` (m, o), ``covariance`` (m, m) of each output."""

    mean: Tensor
    covariance: Tensor

    @property
    def deviation(self) -> Tensor:
        """Standard deviation at each point, (m,)."""
        return self.covariance.diagonal().clamp(min=0).sqrt()

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Return outputs of ``count`` networks, (count, m, o), drawn by (seed, "kernels.gaussian_limit").

        Raises:
            ConfigError: For a count below 1.
        """
        m, o = self.mean.shape
        values, vectors = torch.linalg.eigh(self.covariance)
        draw = generator(seed, "kernels.gaussian_limit")
        normal = torch.randn(whole(count, "count", least=1), m, o, generator=draw, dtype=torch.float64, device="cpu")
        root = vectors * values.clamp(min=0).sqrt()
        return self.mean + torch.einsum("ij,sjo->sio", root, normal.to(root.device))


def gaussian_limit(
    nngp: Tensor,
    ntk: Tensor,
    y: Tensor,
    time: float = math.inf,
    *,
    average: Average = "entries",
    tolerance: float = TOLERANCE,
) -> GaussianLimit:
    """Return the distribution of f_t over initializations, on the points that are not trained on.

    Args:
        nngp: Kernel of the untrained network, (n + m, n + m): the n training points first, then m >= 1 new ones (which
            may repeat training points).
        ntk: The tangent kernel of the same points.
        y: Targets of the training points, (n,) or (n, o).
        time: Steps times learning rate; infinity is the end of training.
        average: As for `kernel_dynamics`.
        tolerance: As for `kernel_dynamics`.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`, or if the kernels do not fit each other or y.
    """
    Sigma, Theta = checked_gram(nngp, tolerance, "nngp"), checked_gram(ntk, tolerance, "ntk")
    target = checked_targets(y, y.shape[0] if y.ndim else 0, "y").to(Theta.entries.device)
    n, points = target.shape[0], Theta.examples
    if nngp.ndim != 2 or nngp.shape != ntk.shape:
        raise ShapeMismatch(
            f"nngp and ntk have shapes {tuple(nngp.shape)} and {tuple(ntk.shape)}; expected both (n, n)"
        )
    if not 0 < n < points:
        raise ConfigError(
            f"y has {n} rows and the kernels {points} points; expected the {n} training points and at least one more"
        )
    flow = Flow(checked_time(time), loss_divisor(average, *target.shape))
    values, vectors = spectrum(checked_gram(ntk[:n, :n], tolerance, "ntk"), tolerance)
    A = Theta.entries[n:, :n] @ (vectors * flow.gain(values)) @ vectors.mT
    S = Sigma.entries.to(A.device)
    cross = A @ S[:n, n:]
    covariance = S[n:, n:] + A @ S[:n, :n] @ A.mT - cross - cross.mT
    return GaussianLimit(A @ target, (covariance + covariance.mT) / 2)
