"""Every ridge from one eigendecomposition: weights, generalized cross-validation, and exact leave-one-out errors.

    G = Q diag(s) Q^T,   U^T = Q diag(1 / (s + lambda)) Q^T C,   h_i = [1/n] + sum_k (p_i . q_k)^2 / (s_k + lambda)

    leave-one-out   sum_i |r_i / (1 - h_i)|^2                 exact; a second pass over the examples
    generalized     n sum_i |r_i|^2 / (1 - mean h)^2 / n      the same with the mean of h: needs the sums alone

r_i is the residual of example i and h_i its leverage; 1/n is the intercept's (Golub, Heath and Wahba 1979).

Shape legend: N examples, W features, D outputs, L values of lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Decades of lambda / s_1 that are tried, two values a decade. The lowest is where rounding of G begins to matter.
_LOWEST, _HIGHEST = -12, 1
_LEAST_FREEDOM = 1e-4  # share of degrees of freedom below which a residual has no digits left


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A fitted linear map y = U p + c.

    Attributes:
        weight: U (D, W), float64.
        bias: c (D,), zeros where no intercept was fitted.
        ridge: lambda.
        error: Relative squared error on the examples that it was fitted to.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    error: float

    def __call__(self, features: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Return the outputs for features, float64."""
        return features.double() @ self.weight.mT + self.bias


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Eigendecomposition of the centered Gram matrix of a `Ridge`.

    Attributes:
        values: s (W,), not negative.
        vectors: Q (W, W), columns.
        cross: Q^T C (W, D).
        total: Sum of squares of the centered targets (D,).
        count: N.
        mean: Of the features (W,); zeros without an intercept.
        target_mean: Of the targets (D,).
        intercept: Whether one is fitted.
    """

    values: Tensor
    vectors: Tensor
    cross: Tensor
    total: Tensor
    count: int
    mean: Tensor
    target_mean: Tensor
    intercept: bool

    @property
    def lambdas(self) -> Float[Tensor, " L"]:
        """The values of lambda to choose from: half decades relative to the largest eigenvalue."""
        return lambda_grid(self.values)

    def fit(self, ridge: float) -> RidgeFit:
        """Return the weights for one lambda."""
        weight_WD = self.vectors @ (self.cross / self._denominator(ridge)[:, None])
        bias = self.target_mean - self.mean @ weight_WD
        total = max(float(self.total.sum()), torch.finfo(torch.float64).tiny)
        return RidgeFit(weight_WD.mT.contiguous(), bias, ridge, max(0.0, self._residual(ridge)) / total)

    def effective(self, ridge: float) -> float:
        """Return the degrees of freedom, sum of s / (s + lambda), without the intercept's."""
        return float((self.values / self._denominator(ridge)).sum())

    def generalized(self) -> Float[Tensor, " L"]:
        """Return the generalized cross-validation error, a mean over examples, for each lambda.

        It is infinite where less than 1e-4 of the degrees of freedom are left: no digit of the residual is.
        """
        found = []
        for ridge in self.lambdas.tolist():
            freedom = 1 - (self.effective(ridge) + self.intercept) / self.count
            usable = freedom > _LEAST_FREEDOM
            found.append(max(0.0, self._residual(ridge)) / self.count / freedom**2 if usable else torch.inf)
        return torch.tensor(found, dtype=torch.float64)

    def leave_one_out(
        self, features: Float[Tensor, "N W"], targets: Float[Tensor, "N D"], lambdas: Tensor | None = None
    ) -> Float[Tensor, " L"]:
        """Return the sum over these examples of squared leave-one-out errors, for each lambda.

        The examples are (some of) those that the sums were made of; add up the results of all batches.
        """
        P_NW = (features.reshape(-1, features.shape[-1]).to(self.vectors) - self.mean) @ self.vectors
        Y_ND = targets.reshape(-1, targets.shape[-1]).to(self.vectors) - self.target_mean
        found = []
        for ridge in (self.lambdas if lambdas is None else lambdas).tolist():
            scaled_NW = P_NW / self._denominator(ridge)
            left_N = 1 - (P_NW * scaled_NW).sum(1) - self.intercept / self.count
            found.append(squared_ratio(Y_ND - scaled_NW @ self.cross, left_N))
        return torch.stack(found)

    def best(self, errors: Tensor) -> float:
        """Return the lambda of the least error; the largest one where no error is finite."""
        return least(self.lambdas, errors)

    def _denominator(self, ridge: float) -> Tensor:
        return (self.values + ridge).clamp(min=torch.finfo(torch.float64).tiny)

    def _residual(self, ridge: float) -> float:
        denominator = self._denominator(ridge)
        explained = (self.values + 2 * ridge) / denominator.square()
        return float(self.total.sum() - (self.cross.square().sum(1) * explained).sum())


def lambda_grid(values: Tensor) -> Float[Tensor, " L"]:
    """Return the values of lambda to choose from, for eigenvalues of a Gram matrix."""
    largest = float(values.max())
    exponents = torch.linspace(_LOWEST, _HIGHEST, 2 * (_HIGHEST - _LOWEST) + 1, dtype=torch.float64)
    return (largest or 1.0) * 10**exponents


def squared_ratio(residual_ND: Tensor, left_N: Tensor) -> Tensor:
    """Return sum_i |r_i / (1 - h_i)|^2; infinite where an example determines its own fit to the last digit."""
    if bool((left_N <= 1e-12).any()):
        return residual_ND.new_tensor(torch.inf)
    return (residual_ND / left_N[:, None]).square().sum()


def least(lambdas: Tensor, errors: Tensor) -> float:
    """Return the lambda of the least error, the larger of equal ones; the largest where no error is finite."""
    order: Callable[[int], tuple[float, float]] = lambda i: (float(errors[i]), -float(lambdas[i]))  # noqa: E731
    return float(lambdas[min(range(len(lambdas)), key=order)])
