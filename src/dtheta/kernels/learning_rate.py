"""The largest learning rate at which gradient descent on a squared loss does not diverge.

    h < 2 (1 + momentum) D / lambda_max      for the loss |f - y|^2 / (2 D)

Along an eigenvector the error follows r' = (1 + mu - a) r - mu r_before with a = h lambda / D, whose roots lie inside
the unit circle exactly for 0 < a < 2 (1 + mu) (Polyak 1964). Above it, a network leaves the regime that its tangent
kernel describes.

Shape legend: n examples, o outputs.
"""

from __future__ import annotations

import math

from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.kernels.dynamics import Average, checked_momentum, loss_divisor
from dtheta.kernels.matrices import TOLERANCE, checked_gram
from dtheta.kernels.pca import leading_eigenpairs


def max_learning_rate(
    kernel: Tensor,
    momentum: float = 0.0,
    *,
    outputs: int | None = None,
    average: Average = "entries",
    tolerance: float = TOLERANCE,
) -> float:
    """Return the bound on the learning rate of full-batch gradient descent on |f - y|^2 / (2 D); infinity for kernel 0.

    Args:
        kernel: Training points with themselves, (n, n) or (n, n, o, o).
        momentum: Of torch.optim.SGD, in [0, 1), without Nesterov or dampening.
        outputs: Number of outputs that share a kernel (n, n); 1 if not given. A full kernel knows its own.
        average: As for `kernel_dynamics`. torch's mse_loss has no 1/2: half of this bound holds for it.
        tolerance: As for `kernel_dynamics`.

    A mean kernel averages the outputs and has a smaller lambda_max than the full one has: its bound is optimistic.

    Raises:
        ShapeMismatch, NonFinite, ConfigError: As `kernel_dynamics`, or if ``outputs`` contradicts a full kernel.
    """
    gram = checked_gram(kernel, tolerance)
    if kernel.ndim == 4 and outputs not in (None, gram.block):
        raise ConfigError(f"outputs is {outputs}, and the full kernel has {gram.block}; leave outputs out")
    count = gram.block if kernel.ndim == 4 else whole(1 if outputs is None else outputs, "outputs", least=1)
    divisor, mu = loss_divisor(average, gram.examples, count), checked_momentum(momentum)
    largest = float(leading_eigenpairs(gram, 1, tolerance)[0][0])
    return 2 * (1 + mu) * divisor / largest if largest > 0 else math.inf
