"""SNNK layer: a scalable neural network kernel in place of a linear layer and the nonlinearity after it.

    y = Psi Phi(x) + c [+ L x],   Phi (width) random features, Psi (l, width) trained

Inputs and weights meet in one dot product only, and nothing nonlinear follows it. Psi starts at Psi(W, b), the features
of the layer that is replaced, so that y estimates f(W x + b); afterwards W is not needed. That estimate is a start and
no replacement: `SNNKLayer.refit` solves Psi by least squares on data, and training may go on from there.

The released code keeps the projection in no buffer, so that a reloaded state dict meets a fresh one; see projection.py
for ours. Sehanobish et al. 2024, "Scalable Neural Network Kernels" (arXiv 2310.13225).

Shape legend: d inputs, l outputs, M = features.width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.features import RandomFeatures
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.feed_forward import affine
from dtheta.kernels.projection import Projection
from dtheta.kernels.ridge import Ridge, rows
from dtheta.kernels.ridge_path import RidgeFit

_ROWS = 4096  # examples at a time in a refit

#: Batches of inputs (..., d), or of inputs and targets (..., l).
Data = Tensor | Iterable[Tensor | tuple[Tensor, Tensor]]


class SNNKLayer(nn.Module):
    """Random features and a trained linear map of them; see the module's docstring.

    Attributes:
        features: Configuration of Phi.
        psi: Psi (l, M), a parameter.
        bias: c (l,), a parameter, or None.
        skip: L (l, d), a parameter, or None.
        projection: The draws of Phi, regenerated from their seed.
    """

    def __init__(
        self,
        features: RandomFeatures,
        outputs: int,
        *,
        bias: bool = True,
        skip: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Build a layer of zeros."""
        super().__init__()
        self.features = features

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype, device=device))

        self.psi = zeros(outputs, features.width)
        self.bias = zeros(outputs) if bias else None
        self.skip = zeros(outputs, features.inputs) if skip else None
        self.projection = Projection(features, dtype, device)

    @classmethod
    def of(
        cls,
        layer: nn.Module,
        function: str | RandomFeatures,
        count: int | None = None,
        *,
        bias: bool = True,
        skip: bool = False,
        **options: Any,
    ) -> SNNKLayer:
        """Return a layer that estimates ``f(layer(x))``, in the dtype and on the device of ``layer``.

        Args:
            layer: ``nn.Linear`` or transformers' ``Conv1D``.
            function: f by name, or the features themselves (``features_of`` makes those of least variance).
            count: Draws of the projection; None where ``function`` holds it.
            bias: Whether there is a constant c, which starts at zero.
            skip: Whether a linear path L, zero at the start, stands beside the features.
            **options: Of ``RandomFeatures``: ``seed``, ``projection``, ``split`` and so on.

        Raises:
            UnsupportedLayer: For another layer.
            ConfigError, ShapeMismatch: For features that cannot be, or of other inputs.
        """
        weight, offset = affine(layer)
        if isinstance(function, str):
            if count is None:
                raise ConfigError(f"features of {function!r} need count, the number of draws")
            function = RandomFeatures(function, weight.shape[1], count, **options)
        elif count is not None or options:
            raise ConfigError(f"count and {list(options)} are fields of the features given; leave them out")
        found = cls(function, len(weight), bias=bias, skip=skip, dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            wide = torch.promote_types(weight.dtype, torch.float32)
            constant = offset.to(wide) if bool(offset.any()) else None
            found.psi.copy_(function.psi(weight.to(wide), constant, found.projection.draws))
        return found

    @property
    def inputs(self) -> int:
        """Return d."""
        return self.features.inputs

    @property
    def outputs(self) -> int:
        """Return l."""
        return len(self.psi)

    def phi(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... M"]:
        """Return the features of inputs, in the dtype of the projection where x is narrower."""
        return self.projection.phi(x)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... l"]:
        """Return the outputs, in the dtype of Psi."""
        y = F.linear(self.phi(x).to(self.psi.dtype), self.psi, self.bias)
        return y if self.skip is None else y + F.linear(x.to(self.skip.dtype), self.skip)

    def refit(
        self, data: Data, function: Callable[[Tensor], Tensor] | None = None, *, ridge: float | None = None
    ) -> RidgeFit:
        """Solve Psi, c and L by ridge regression, in one pass over the data, and set them.

        Args:
            data: Batches, or one tensor of inputs.
            function: What makes targets of inputs, such as the layer replaced and its nonlinearity; None where the data
                holds pairs.
            ridge: lambda; None chooses it by generalized cross-validation.

        Returns:
            The fit, with its relative error on this data; its weights are on Phi, then on x.

        Raises:
            ConfigError: If there is no data, or no targets.
            ShapeMismatch, NonFinite, NotConverged: As ``Ridge``.
        """
        sums = Ridge(self.features.width + (self.inputs if self.skip is not None else 0), self.outputs,
                     intercept=self.bias is not None, device=self.psi.device)  # fmt: skip
        for inputs, targets in _pairs(data, function, self.inputs):
            x, y = rows(inputs, self.inputs, "inputs"), rows(targets, self.outputs, "targets")
            for i in range(0, len(x), _ROWS):
                sums.add(self.columns(x[i : i + _ROWS].to(self.psi.device)), y[i : i + _ROWS])
        fit = sums.solve(ridge)
        self.assign(fit.weight, fit.bias)
        return fit

    @torch.no_grad()
    def columns(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N W"]:
        """Return what Psi and L act on: Phi, then x where there is a linear path."""
        phi = self.phi(x)
        return phi if self.skip is None else torch.cat([phi, x.to(phi)], 1)

    @torch.no_grad()
    def assign(self, weight: Float[Tensor, "l W"], bias: Float[Tensor, " l"]) -> None:
        """Set Psi and L to ``weight``, on the columns of ``columns``, and c to ``bias``.

        Raises:
            ShapeMismatch: If it has another shape.
        """
        M = self.features.width
        expected = (self.outputs, M + (self.inputs if self.skip is not None else 0))
        if weight.shape != expected:
            raise ShapeMismatch(f"the weights are {tuple(weight.shape)}; this layer takes {expected}")
        self.psi.copy_(weight[:, :M])
        if self.skip is not None:
            self.skip.copy_(weight[:, M:])
        if self.bias is not None:
            self.bias.copy_(bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.projection.check(state_dict, f"{prefix}projection.")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"{self.features}, outputs={self.outputs}, bias={self.bias is not None}, skip={self.skip is not None}"


def _pairs(data: Data, function: Callable[[Tensor], Tensor] | None, width: int) -> Iterable[tuple[Tensor, Tensor]]:
    for item in [data] if isinstance(data, Tensor) else data:
        if isinstance(item, (tuple, list)):
            yield item[0], item[1]
            continue
        rows(item, width, "inputs")  # before the function says so in its own words
        if function is None:
            raise ConfigError("a batch holds no targets; give pairs (inputs, targets), or function=the layer replaced")
        with torch.no_grad():
            yield item, function(item)
