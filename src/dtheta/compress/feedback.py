"""Error feedback: what a compression left out is not lost but added before the next one.

    total_t = delta_t + residual_{t-1},   sent_t = compress(total_t),   residual_t = total_t - sent_t
    sum of sent_1 ... sent_t + residual_t = sum of delta_1 ... delta_t

For training in rounds, where many small ternary updates shall add up to the whole one (Seide et al. 2014; Karimireddy
et al. 2019, arXiv 1901.09847; Sattler et al. 2019, arXiv 1903.02891). ComPEFT compresses once and has no rounds.

The sum holds to the rounding of float64, in which residuals are kept. That of a low-rank change stays in factors, of
the rank it truly has, as long as these are smaller than the matrix. Factors that are compressed one by one
(of="factors") have no residual that could be added to the next ones: a sum of products is not the product of sums. So
low-rank rounds take of="product", or "balanced".
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dtheta.compress.compeft import check_scale, compress
from dtheta.compress.plan import Of, balanced
from dtheta.compress.scales import Scale
from dtheta.compress.signs import check
from dtheta.compress.vectors import Per
from dtheta.core.arguments import one_delta
from dtheta.core.assembled import assembled
from dtheta.core.change import Change, Dense, New, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.errors import ConfigError, UnsupportedLayer


def step(total: Delta, **settings: Any) -> tuple[Delta, Delta]:
    """Compress ``delta + residual`` and return what is sent and the new residual.

    Args:
        total: This round's delta, or its sum with the residual of the round before.
        settings: Those of ``compress``, such as density and scale; ``of`` is "product" by default.

    Raises:
        ConfigError: If ``of`` is "factors".
        UnsupportedLayer: If the delta holds new vectors, which are no terms of a sum with their own remainder.
        UnknownParameter, NonFinite: As ``compress``.
    """
    settings = {"of": "product", **settings}
    _refuse_factors(settings["of"])
    if one_delta(total).new:
        raise UnsupportedLayer(
            f"{next(iter(total.new))}: a new vector is no displacement and has no residual; send it apart"
        )
    sent = compress(total, **settings)
    return sent, left_over(total, sent)


def left_over(total: Delta, sent: Delta) -> Delta:
    """Return ``total - sent``, every change as one in float64: what a compression, of any kind, left out."""
    wide = sent.map(lambda _, change: change.map(Tensor.double) if change.is_new else change)  # a new sum is rounded
    return (total - wide).map(lambda _, change: settled(change))


def settled(change: Change) -> Change:
    """Return a sum as one change in float64: factors where they are smaller than the matrix, else the matrix."""
    if change.is_new:
        return New(_exact(change))
    if change.rank is None:
        return Dense(_exact(change))
    wide = change.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    left, right = balanced(wide)
    rows, columns = matrix_shape(change.shape)
    if left.shape[1] * (rows + columns) < rows * columns:
        return LowRank(left, right, full_shape=tuple(change.shape))
    return Dense(_exact(change))


def _exact(change: Change) -> Tensor:
    """Return the displacement in float64, without rounding to float32 on the way."""
    return assembled(change, 0, matrix_shape(change.shape)[0]).reshape(change.shape)


def _refuse_factors(of: str) -> None:
    if of == "factors":
        raise ConfigError("of='factors' leaves no residual that adds to the next factors; use 'product' or 'balanced'")


class ErrorFeedback:
    """Rounds of compression that carry the residual: ``sent = feedback.send(delta)``.

    Attributes:
        settings: Those of ``compress``.
        residual: What has not been sent yet; None before the first round.

    Raises:
        ConfigError: If an argument cannot be meant.
    """

    def __init__(
        self,
        density: float = 0.1,
        scale: Scale = "mean-abs",
        *,
        per: Per = "delta",
        alpha: float = 1.0,
        of: Of = "product",
        residual: Delta | None = None,
    ) -> None:
        density, alpha = check(density, per, of), check_scale(scale, alpha)
        _refuse_factors(of)
        self.settings = {"density": density, "scale": scale, "per": per, "alpha": alpha, "of": of}
        self.residual = None if residual is None else one_delta(residual)

    def send(self, delta: Delta) -> Delta:
        """Return what is sent of this round's delta and of what was left before.

        Raises:
            BaseMismatch: If the delta is of another base than the ones before.
            DthetaError: As ``step``.
        """
        total = one_delta(delta) if self.residual is None else delta + self.residual
        sent, self.residual = step(total, **self.settings)
        return sent
