"""Bundling: several SNNK layers and linear layers as one network without the spaces in between.

    z1 = Psi1 Phi1(x) + c1,   and Phi2 needs of z1 only    G2 z1 = (G2 Psi1) Phi1(x) + G2 c1
                                                          |z1|^2 = |R [Phi1(x); 1]|^2,   R^T R = [Psi1 c1]^T [Psi1 c1]

So the matrix G2 Psi1 (m2, M1) takes the place of Psi1 (l1, M1) and of the projection (m2, l1), and the width l1 is
gone. R has min(l1, M1 + 1) rows; ReLU's features do not depend on |z1|^2 and have none. Linear layers fold into what is
before them, so W2 f(W1 x + b1) + b2 becomes one map of (D, m). Where a layer has a linear path (GELU's features,
``skip``), it acts on z1 = Psi1 Phi1(x) + c1 and so on Phi1(x), which is carried along:

    a_1 = [Phi1(x); x],   a_k = [Phi_k; a_(k-1)]   the latter parts only for layers with a linear path

Everything is exact: a bundle computes what its layers do, to rounding. Sehanobish et al. 2024, "Scalable Neural Network
Kernels" (arXiv 2310.13225), section on bundling.

Shape legend: d inputs, M_k entries of a_k, m_k draws of layer k, l_k its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.features import RandomFeatures
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.feed_forward import Affine, affine
from dtheta.kernels.projection import Projection
from dtheta.kernels.snnk import SNNKLayer


class Coupling(nn.Module):
    """From the features of one layer to the nonlinear features of the next.

    Attributes:
        weight: G Psi (m, M), a parameter.
        offset: G c (m,), a parameter.
        norm: R (r, M + 1), a parameter, or None where the features do not depend on the norm.
    """

    def __init__(self, layer: SNNKLayer, before: Affine) -> None:
        """Join ``layer`` to ``before``, the map from the state a to its inputs z."""
        super().__init__()
        rows = layer.features.draws(torch.float64, before.weight.device).rows
        offset = F.linear(before.bias, rows[:, : layer.inputs])
        if rows.shape[1] > layer.inputs:  # ReLU's rows have a place for a bias, and inputs have 1 there
            offset = offset + rows[:, -1]
        dtype = layer.psi.dtype
        self.weight = nn.Parameter((rows[:, : layer.inputs] @ before.weight).to(dtype))
        self.offset = nn.Parameter(offset.to(dtype))
        self.norm = None
        if layer.features.function != "relu":
            R = torch.linalg.qr(torch.cat([before.weight, before.bias[:, None]], 1), mode="r").R
            self.norm = nn.Parameter(R.to(dtype))
        self.projection = Projection(layer.features, dtype, layer.psi.device, with_rows=False)

    @property
    def features(self) -> RandomFeatures:
        """Configuration of the features that this leads to."""
        return self.projection.features

    def forward(self, a: Float[Tensor, "... M"]) -> Float[Tensor, "... nonlinear"]:
        """Return the nonlinear features of the next layer, in the dtype of the weights."""
        draws = self.projection.draws
        a, wide = a.to(self.weight.dtype), draws.frequencies.dtype
        projected, norms = F.linear(a, self.weight, self.offset), None
        if self.norm is not None:
            norms = F.linear(a, self.norm[:, :-1], self.norm[:, -1]).to(wide).square().sum(-1, keepdim=True)
        return self.features.phi_projected(projected.to(wide), norms, draws).to(self.weight.dtype)


class Bundle(nn.Module):
    """SNNK layers joined by their features.

    Attributes:
        couplings: One for every layer after the first.
        weight: U (l, M), from the last features to the outputs, a parameter.
        bias: c (l,), a parameter.
        skips: For every layer, whether what it acts on is carried along.
    """

    def __init__(self, layers: Sequence[SNNKLayer | nn.Linear]) -> None:
        """Join layers; see ``bundle``."""
        super().__init__()
        first = layers[0]
        assert isinstance(first, SNNKLayer)
        self.features = first.features
        self.projection = Projection(first.features, first.psi.dtype, first.psi.device)
        self.couplings = nn.ModuleList()
        self.skips = [first.skip is not None]
        now = _first_map(first)
        for layer in layers[1:]:
            if isinstance(layer, SNNKLayer):
                self.couplings.append(Coupling(layer, now))
                now, carried = _next_map(layer, now)
                self.skips.append(carried)
            else:
                now = _then(affine(layer).double(), now)
        self.weight = nn.Parameter(now.weight.to(first.psi.dtype))
        self.bias = nn.Parameter(now.bias.to(first.psi.dtype))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... l"]:
        """Return the outputs, in the dtype of the weights."""
        a = self.projection.phi(x).to(self.weight.dtype)
        if self.skips[0]:
            a = torch.cat([a, x.to(a)], -1)
        for coupling, carried in zip(self.couplings, self.skips[1:], strict=True):
            phi = coupling(a)
            a = torch.cat([phi, a], -1) if carried else phi
        return F.linear(a, self.weight, self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, module in self.named_modules():
            if isinstance(module, Projection):
                module.check(state_dict, f"{prefix}{name}.")
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Parts(NamedTuple):
    """Psi by what it acts on: nonlinear features, the layer's inputs (None for no linear path), and 1."""

    nonlinear: Tensor
    linear: Tensor | None
    constant: Tensor


def bundle(layers: Sequence[SNNKLayer | nn.Linear]) -> Bundle:
    """Return one module that computes what the layers do, one after the other; they are copied, not changed.

    Args:
        layers: SNNK layers, and linear layers (``nn.Linear``, ``Conv1D``) after some of them.

    Raises:
        ConfigError: If the first is no SNNK layer, or there is none.
        ShapeMismatch: If a layer does not take what the one before it gives.
        UnsupportedLayer: For a layer of another kind.
    """
    layers = list(layers)
    if not layers or not isinstance(layers[0], SNNKLayer):
        raise ConfigError("a bundle begins with an SNNKLayer; fold a linear layer before it into that layer's inputs")
    width = layers[0].inputs
    for i, layer in enumerate(layers):
        takes, gives = (
            (layer.inputs, layer.outputs) if isinstance(layer, SNNKLayer) else affine(layer).weight.shape[::-1]
        )
        if takes != width:
            raise ShapeMismatch(f"layer {i} of the bundle takes {takes} inputs; the one before it gives {width}")
        width = gives
    with torch.no_grad():
        return Bundle(layers)


@torch.no_grad()
def fold(layer: SNNKLayer, linear: nn.Module) -> SNNKLayer:
    """Return the SNNK layer that computes ``linear(layer(x))``: Psi becomes W Psi, of the outputs of ``linear``.

    Raises:
        ShapeMismatch: If ``linear`` does not take what ``layer`` gives.
        UnsupportedLayer: If it is no linear layer.
    """
    after = affine(linear)
    if after.weight.shape[1] != layer.outputs:
        raise ShapeMismatch(f"the linear layer takes {after.weight.shape[1]} inputs; the layer gives {layer.outputs}")
    found = SNNKLayer(
        layer.features, len(after.weight), skip=layer.skip is not None, dtype=layer.psi.dtype, device=layer.psi.device
    )
    first = _first_map(layer)
    now = _then(after.double(), first)
    found.assign(now.weight, now.bias)
    return found


def _first_map(layer: SNNKLayer) -> Affine:
    """Return the map from a_1 to the outputs; Phi1 holds a linear part of its own, if there is one."""
    psi = layer.psi.detach().double()
    weight = psi if layer.skip is None else torch.cat([psi, layer.skip.detach().double()], 1)
    return Affine(weight, _constant(layer))


def _next_map(layer: SNNKLayer, before: Affine) -> tuple[Affine, bool]:
    """Return the map from a_k to the outputs, and whether a_(k-1) is a part of a_k."""
    parts = _parts(layer)
    if parts.linear is None:
        return Affine(parts.nonlinear, parts.constant), False
    carried = _then(Affine(parts.linear, parts.constant), before)
    return Affine(torch.cat([parts.nonlinear, carried.weight], 1), carried.bias), True


def _parts(layer: SNNKLayer) -> _Parts:
    psi, constant, spectrum = layer.psi.detach().double(), _constant(layer), layer.features.spectrum
    linear = None if layer.skip is None else layer.skip.detach().double()
    if spectrum is not None and spectrum.slope:  # the last columns are of x and of 1
        d = layer.inputs
        own, constant = psi[:, -d - 1 : -1], constant + psi[:, -1]
        psi, linear = psi[:, : -d - 1], own if linear is None else own + linear
    return _Parts(psi, linear, constant)


def _constant(layer: SNNKLayer) -> Tensor:
    return layer.psi.new_zeros(layer.outputs).double() if layer.bias is None else layer.bias.detach().double()


def _then(after: Affine, before: Affine) -> Affine:
    """Return the map that does one after the other, float64."""
    return Affine(after.weight @ before.weight, after.weight @ before.bias + after.bias)
