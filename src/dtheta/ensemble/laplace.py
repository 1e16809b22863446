"""Last-layer Laplace: networks drawn from the Gaussian posterior of the last linear layer, as Deltas.

    y_N = W phi_N + noise,  noise ~ N(0, s_o^2) for output o,  W_o ~ N(W*_o, I / prior)
    posterior of the rows      W_o ~ N(W*_o, temperature * H_o^-1),   H_o = Phi^T Phi / s_o^2 + prior I
    draw                       W_o = W*_o + sqrt(temperature) R_o^-1 xi,   H_o = R_o^T R_o

(MacKay 1992, Neural Comput. 4; Daxberger et al. 2021, "Laplace redux", arXiv 2106.14806.) phi are the inputs of the
layer, with a constant 1 where it has a bias, over states that one gives; for squared error the Gauss-Newton matrix of
a linear layer is the Hessian, so this is the exact posterior given the features. A 1x1 convolution is such a layer at
each point; neighboring points are no independent examples, so there a temperature above 1 is in place.

Shape legend: N examples (times points), E features and a constant, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.arguments import number
from dtheta.core.change import Change, Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.modes import kept_modes
from dtheta.core.provenance import Provenance
from dtheta.core.seeds import generator
from dtheta.ensemble.noise import settled
from dtheta.ensemble.parameters import ParameterPerturbation, Sampler
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, UnknownParameter, UnsupportedLayer, did_you_mean


@dataclass(frozen=True, eq=False)
class LastLayerLaplace(ParameterPerturbation):
    """Draws of the last layer.

    Attributes:
        layer: name of the layer: ``nn.Linear``, or a convolution of one point.
        states: batches (B, ...) from which the features come, such as the states of the training set.
        noise: s, standard deviation of the layer's outputs about what they should be: one number, or one an output.
        prior: precision of the prior of a weight.
        temperature: factor of the covariance.
    """

    layer: str
    states: Iterable[Tensor]
    noise: float | Sequence[float] | Tensor
    prior: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that are not positive."""
        for name in ("prior", "temperature"):
            if number(getattr(self, name), name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a positive number")

    def sampler(self, base: nn.Module) -> Sampler:
        """Collect the features and factor the posterior precision of every output.

        Raises:
            UnknownParameter: if the network has no such layer.
            UnsupportedLayer: if the layer is of another kind, or is called more than once or not at all.
            NonFinite: for features that are not finite.
            ShapeMismatch: for another number of noises than outputs.
        """
        layer = _layer(base, self.layer)
        gram_EE = _gram(base, layer, self.states)
        deviations_O = _deviations(self.noise, layer.weight.shape[0])
        eye = torch.eye(len(gram_EE), dtype=torch.float64)
        factors = [torch.linalg.cholesky(gram_EE / s**2 + self.prior * eye, upper=True) for s in deviations_O.tolist()]
        root_OEE = torch.stack(factors)
        names = [f"{self.layer}.weight", *([f"{self.layer}.bias"] if layer.bias is not None else [])]
        held, shape = fingerprint(base).restrict(names), tuple(layer.weight.shape)

        def draw(seed: int, index: int) -> Delta:
            draws = generator(seed, f"ensemble/laplace/{self.layer}", index)
            xi = torch.randn(len(root_OEE), len(gram_EE), 1, generator=draws, dtype=torch.float64)
            moved_OE = torch.linalg.solve_triangular(root_OEE, xi, upper=True)[..., 0] * math.sqrt(self.temperature)
            changes: dict[str, Change] = {names[0]: Dense(moved_OE[:, : math.prod(shape[1:])].reshape(shape))}
            if len(names) == 2:
                changes[names[1]] = Dense(moved_OE[:, -1])
            return Delta(changes, held, Provenance("perturb", self.to_dict(), seed=seed, settings={"index": index}))

        return draw

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the states are not among them."""
        return {
            "name": "LastLayerLaplace", "layer": self.layer, "noise": settled(self.noise), "prior": self.prior,
            "temperature": self.temperature,
        }  # fmt: skip


def _layer(base: nn.Module, name: str) -> Any:
    modules = dict(base.named_modules())
    if name not in modules:
        raise UnknownParameter(f"the network has no layer {name!r}{did_you_mean(name, modules)}")
    layer = modules[name]
    point = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and set(layer.kernel_size) == {1} and layer.groups == 1
    if not (isinstance(layer, nn.Linear) or point):
        raise UnsupportedLayer(f"{name} is {type(layer).__name__}; expected nn.Linear or a convolution of one point")
    return layer


def _gram(base: nn.Module, layer: Any, states: Iterable[Tensor]) -> Tensor:
    """Return Phi^T Phi (E, E), float64, of all inputs of the layer."""
    width, gram, calls, passes = math.prod(layer.weight.shape[1:]), None, 0, 0

    def collect(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal gram, calls
        phi = inputs[0].detach().double()
        if not isinstance(layer, nn.Linear):
            phi = phi.transpose(1, -1)  # channels last; the order of points is free
        phi_NE = phi.reshape(-1, width).cpu()
        if layer.bias is not None:
            phi_NE = torch.cat((phi_NE, phi_NE.new_ones(len(phi_NE), 1)), 1)
        found = phi_NE.T @ phi_NE
        gram, calls = found if gram is None else gram + found, calls + 1

    hook = layer.register_forward_pre_hook(collect)
    try:
        with torch.no_grad(), kept_modes(base):
            for batch in states:
                base(batch)
                passes += 1
    finally:
        hook.remove()
    if gram is None or calls != passes:
        raise UnsupportedLayer(
            f"the layer was called {calls} times for {passes} batches; expected a layer that is called once a step"
        )
    if not bool(torch.isfinite(gram).all()):
        raise NonFinite("the features of the last layer hold NaN or infinity; look at the states and the network")
    return gram


def _deviations(noise: Any, outputs: int) -> Tensor:
    found = torch.as_tensor(noise, dtype=torch.float64).reshape(-1)
    if len(found) not in (1, outputs):
        raise ShapeMismatch(f"noise has {len(found)} values and the layer {outputs} outputs; expected one, or one each")
    if not bool((found > 0).all() and torch.isfinite(found).all()):
        raise ConfigError("noise must be positive: the standard deviation of the layer's outputs")
    return found.expand(outputs)
