"""Random features: phi(x).psi(w, b) estimates f(w.x + b), so inputs and weights meet in one dot product only.

With the exponentials of spectra.py and any split rho eta = a, for g ~ N(0, I) and A > -1/8:

    Lam_g(z)     = (1 + 4A)^(d/4) exp(-A |g|^2 + sqrt(1 + 4A) g.z - z.z / 2),   E[Lam_g(u) Lam_g(v)] = exp(u.v)
    phi(x)_i     = Lam_g_i(rho_i x) / sqrt(m)
    psi(w, b)_i  = Lam_g_i(eta_i w) c_i exp(a_i b) / sqrt(m)

    split        rho                eta                of the pair's factors are complex
    symmetric    al sqrt(a)         sqrt(a) / al       both (none for exp)
    x-trig       al a               1 / al             phi
    w-trig       al                 a / al             psi
    positive     al                 1 / al             none: exp only, whose a is 1

z.z is bilinear, with no conjugate. Of a complex product only the real part counts (spectra.py), so it is stored as real
features, [Re phi, -Im phi] against [Re psi, Im psi]; a real phi needs Re psi alone.

ReLU has no finite variance this way. Its features are those of the arc-cosine kernel, which is another function of
x and w than relu(w.x):

    phi(x) = max(G x, threshold) / sqrt(m),   psi(w) = max(G w, threshold) / sqrt(m)
    E[phi.psi] = |x| |w| (sin t + (pi - t) cos t) / (2 pi) at threshold 0,   t the angle of x and w

with 1 appended to x and the bias to w.

Sehanobish et al. 2024, "Scalable Neural Network Kernels" (arXiv 2310.13225); Lam: Likhosherstov et al. 2022 (FAVOR++,
arXiv 2302.00787); arc-cosine kernel: Cho and Saul 2009.

Shape legend: x (..., d), W (l, d), b (l,), G (m, d); phi (..., width), psi (l, width).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dtheta.core.features import moments
from dtheta.core.features.projections import draw_rows
from dtheta.core.features.refusals import RELU, check
from dtheta.core.features.sides import (
    Side,
    input_features,
    real_form,
    rectified,
    relu_of_inputs,
    relu_of_weights,
    turn_of,
    weight_features,
)
from dtheta.core.features.spectra import SPECTRA, Spectrum
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

_PIECE = 1 << 19  # numbers of phi computed at a time where no gradient is wanted: they stay in the cache


class Draws(NamedTuple):
    """What `RandomFeatures` draws: float64 on the CPU unless asked otherwise.

    ``rows`` (m, d) are the rows g, ``frequencies`` (m,) the omega, ``shift`` (m,) the logarithm of what every feature
    of a row is multiplied by. A module may keep them as non-persistent buffers: ``Draws(*buffers)``.
    """

    rows: Tensor
    frequencies: Tensor
    shift: Tensor


@dataclass(frozen=True)
class RandomFeatures:
    """Universal random features of one function, or the arc-cosine features of ReLU.

    Nothing random is stored: `draws` makes rows and frequencies again from ``(seed, name)``.

    Args:
        function: ``exp``, ``sin``, ``cos``, ``gaussian`` (exp(-z^2/2)), ``tanh``, ``gelu`` (exact, with erf), or
            ``relu`` (arc-cosine).
        inputs: Length d of x.
        count: Number m of draws; see `width` for the number of features.
        seed: Seed of the draws.
        split: How a is split between x and w, see the module; ``exp`` is real, so its ``symmetric`` split is its
            ``positive`` one.
        projection: ``gaussian``, ``orthogonal`` or ``sobol``; see projections.py.
        A: The free scalar of Lam, above -1/8. 0 is the plain one; `features_of` finds the best.
        balance: al > 0, which scales x against w; the best is sqrt(rms |w| / rms |x|).
        tilt: Shift of the frequencies drawn (spectra.py): ``gaussian`` and ``gelu``, and below pi/2 ``tanh``.
        antithetic: Whether -g is used beside every g, which doubles the width and takes away all odd errors. ``gelu``
            needs it, since its variance is infinite otherwise: None means what the function needs.
        threshold: ReLU's lower bound.
        bias: Whether there is a bias: `psi` accepts b, and ReLU's rows have a place for it.
        name: Says which draws these are, beside the seed.

    Raises:
        ConfigError: For a choice that no estimate of finite variance exists for, naming those that work.
    """

    function: str
    inputs: int
    count: int
    seed: int = 0
    split: str = "symmetric"
    projection: str = "gaussian"
    A: float = 0.0
    balance: float = 1.0
    tilt: float = 0.0
    antithetic: bool | None = None
    threshold: float = 0.0
    bias: bool = True
    name: str = "features"

    def __post_init__(self) -> None:
        if self.antithetic is None:
            object.__setattr__(self, "antithetic", self.function == "gelu")
        check(self)

    @property
    def width(self) -> int:
        """Number of features: 1 for each draw where phi is real, 2 where it is complex, twice that if antithetic.

        GELU has d + 1 more: the inputs for its linear part, and a constant.
        """
        spectrum = self.spectrum
        one = 1 if spectrum is None or not turn_of(self, on_inputs=True).imaginary else 2
        extra = self.inputs + 1 if spectrum is not None and spectrum.slope else 0
        return one * self.count * (2 if self.antithetic else 1) + extra

    @property
    def spectrum(self) -> Spectrum | None:
        """The function's mixture of exponentials; None for ReLU."""
        return SPECTRA.get(self.function)

    def draws(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Draws:
        """Return the rows and frequencies, drawn again from ``(seed, name)``; the same bits every time."""
        columns = self.inputs + (self.function == RELU and self.bias)
        rows, quantiles = draw_rows(self.projection, self.count, columns, self.seed, self.name)
        spectrum = self.spectrum
        omega = torch.ones_like(quantiles) if spectrum is None else spectrum.frequencies(quantiles, self.tilt)
        lift = -self.A * rows.square().sum(1) + self.inputs / 4 * math.log1p(4 * self.A)
        shift = lift - 0.5 * math.log(self.count * (2 if self.antithetic else 1))
        return Draws(*(part.to(device=device, dtype=dtype) for part in (rows, omega, shift)))

    def phi(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Return the features of inputs.

        Args:
            x: (..., d), of any number of leading dimensions, also none and empty ones; floating point. Half precision
                is computed in float32.
            draws: What `draws` returned, on the device of x and best in its dtype; None draws again.

        Returns:
            (..., width), in the dtype of x; differentiable in x.

        Raises:
            ShapeMismatch: If the last dimension is not d.
            ConfigError: If x is not floating point.
        """
        return self._features(x, draws, bias=None, on_inputs=True)

    def phi_projected(self, projected: Tensor, norms: Tensor | None, draws: Draws) -> Tensor:
        """Return the nonlinear features of inputs that are known by their projection alone, as in a bundle of layers.

        Args:
            projected: G x (..., m); for ReLU with a bias, of x with 1 appended.
            norms: |x|^2 (..., 1); ReLU's features do not depend on it.
            draws: What `draws` returned, on the device of ``projected`` and in its dtype.

        Returns:
            The features of `phi` without those of a linear part (x and 1), (..., nonlinear).
        """
        shape, projected = projected.shape[:-1], projected.reshape(-1, self.count)
        if self.spectrum is None:
            found = rectified(self, projected)
        elif norms is None:
            raise ConfigError(f"the features of {self.function} depend on |x|^2; give norms")
        else:
            found = real_form(*Side(self, draws, on_inputs=True).of_projection(projected, norms.reshape(-1, 1)))
        return found.reshape(*shape, found.shape[1])

    def psi(self, W: Tensor, b: Tensor | None = None, draws: Draws | None = None) -> Tensor:
        """Return the features of weights.

        Args:
            W: (l, d).
            b: (l,), or None for no bias.
            draws: As in `phi`.

        Returns:
            (l, width), in the dtype of W; ``phi(x) @ psi(W, b).T`` estimates f(x W^T + b).

        Raises:
            ShapeMismatch: If shapes disagree.
            ConfigError: If W is not floating point, or a bias is given to features without one.
            NonFinite: If the weights are so large that a feature overflows.
        """
        self._check_weights(W, b)
        features = self._features(W, draws, bias=b, on_inputs=False)
        if not torch.isfinite(features).all():
            raise NonFinite(
                f"features of weights overflow: the largest norm of a row is {float(W.norm(dim=1).max()):.4g}; scale "
                "weights or inputs down, or let dtheta.core.features.features_of(x, W, ...) balance them"
            )
        return features

    def kernel(self, x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
        """Return what ``phi(x) @ psi(W, b).T`` is on average, (..., l) float64: f(x W^T + b), ReLU: arc-cosine kernel.

        Raises:
            ConfigError: For a threshold other than 0.
        """
        return self._exactly(moments.kernel, x, W, b)

    def variance(self, x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
        """Return the variance of ``phi(x) @ psi(W, b).T``, inf where it is infinite; (..., l) float64.

        It is exact for independent rows (``projection="gaussian"``); see moments.py for the formulas.

        Raises:
            ConfigError: For a threshold other than 0.
        """
        return self._exactly(moments.variance, x, W, b)

    def _exactly(self, formula: Callable[..., Tensor], x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        _check_input(x, self.inputs)
        self._check_weights(W, b)
        bias = W.new_zeros(W.shape[0]) if b is None else b
        found = formula(self, x.reshape(-1, self.inputs).double(), W.double(), bias.double())
        return found.reshape(*x.shape[:-1], W.shape[0])

    def _check_weights(self, W: Tensor, b: Tensor | None) -> None:
        if b is not None and not self.bias:
            raise ConfigError("a bias was given to features that have none; expected bias=True")
        _check_input(W, self.inputs)
        if W.dim() != 2 or (b is not None and b.shape != W.shape[:1]):
            found = f"W {tuple(W.shape)}" + ("" if b is None else f" and b {tuple(b.shape)}")
            raise ShapeMismatch(f"weights are {found}; expected W (l, {self.inputs}) and b (l,)")

    def _features(self, z: Tensor, draws: Draws | None, bias: Tensor | None, on_inputs: bool) -> Tensor:
        _check_input(z, self.inputs)
        dtype = z.dtype if z.dtype in (torch.float32, torch.float64) else torch.float32
        draws = self.draws(dtype, z.device) if draws is None else Draws(*(part.to(dtype) for part in draws))
        flat = z.reshape(-1, self.inputs).to(dtype)
        return self._map(draws, flat, bias, on_inputs).reshape(*z.shape[:-1], self.width).to(z.dtype)

    def _map(self, draws: Draws, z: Tensor, bias: Tensor | None, on_inputs: bool) -> Tensor:
        spectrum = self.spectrum
        if spectrum is None and on_inputs:
            return _in_pieces(lambda part: relu_of_inputs(self, draws, part), z, self.width)
        if spectrum is None:
            return relu_of_weights(self, draws, z, bias)
        side = Side(self, draws, on_inputs)
        if not on_inputs:
            return weight_features(side, spectrum, z, z.new_zeros(z.shape[0]) if bias is None else bias)
        return _in_pieces(lambda part: input_features(side, spectrum, part), z, self.width)


def _check_input(z: Tensor, inputs: int) -> None:
    if not z.is_floating_point():
        raise ConfigError(f"features take floating-point numbers, found {z.dtype}")
    if z.dim() == 0 or z.shape[-1] != inputs:
        raise ShapeMismatch(
            f"features of {inputs} inputs were given a tensor {tuple(z.shape)}; expected (..., {inputs})"
        )


def _in_pieces(function: Callable[[Tensor], Tensor], z: Tensor, width: int) -> Tensor:
    rows = max(1, _PIECE // width)
    if z.shape[0] <= 2 * rows or (torch.is_grad_enabled() and z.requires_grad):
        return function(z)
    found = z.new_empty((z.shape[0], width))
    for first in range(0, z.shape[0], rows):
        found[first : first + rows] = function(z[first : first + rows])
    return found
