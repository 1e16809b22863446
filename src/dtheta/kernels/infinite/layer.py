"""The algebra of layers: one after another (`serial`), side by side (`parallel`), around (`residual`).

A layer is a frozen dataclass that says two things: how covariances pass through it when it is infinitely wide
(`Layer.kernel`), and what it is when it is finite (`Layer.network`). A sum of branches adds their kernels, which is
right where their outputs are uncorrelated: all but one must end in weights of their own, with nothing but linear maps
behind (`Kernel.gaussian`), so that their mean is 0 and no other branch shares the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.infinite.kernel import Kernel

#: Shape of one example: channels, then places.
Shape = tuple[int, ...]


class Layer:
    """What all layers share; a subclass is a frozen dataclass of its settings."""

    #: Whether it has weights.
    weighted: bool = False

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        raise NotImplementedError

    def full_before(self, after: bool) -> bool:
        """Tell whether the inputs' kernel must hold pairs of different places, if the outputs' kernel must or not."""
        return after

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it.

        ``units.last`` is what its outputs have, if it has weights; ``units.hidden`` what is between its parts.
        """
        raise NotImplementedError

    def network(self, width: int, inputs: int | Sequence[int], outputs: int = 1, seed: int = 0) -> nn.Module:
        """Return a finite network in NTK parametrization: every parameter is drawn from N(0, 1), factors stand outside.

        Its tangent kernel and its outputs' covariance tend to ``infinite_kernel`` as 1/sqrt(width).

        Args:
            width: Units of every layer of weights but the last.
            inputs: Features of one example, or (channels, *places).
            outputs: Units of the last layer of weights.
            seed: Of the parameters; each is drawn by the seed and its place in the network.

        Returns:
            A module from (N, *inputs) to (N, outputs), float32, in training mode.

        Raises:
            ConfigError: If a size is no whole number of 1 or more.
            ShapeMismatch: If the places do not fit a layer.
        """
        shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        shape = tuple(whole(size, "inputs", 1) for size in shape)
        units = Units(whole(width, "width", 1), whole(outputs, "outputs", 1))
        return self.build(shape, units, Draw(seed, "network"))[0]


class Units(NamedTuple):
    """Units of a finite network: of its last layer of weights, and of all others."""

    hidden: int
    last: int


@dataclass(frozen=True)
class Draw:
    """Where the parameters of one finite layer come from: a seed and the layer's place."""

    seed: int
    place: str

    def at(self, place: object) -> Draw:
        """Return the draw of a part of this layer."""
        return Draw(self.seed, f"{self.place}.{place}")


@dataclass(frozen=True)
class Identity(Layer):
    """Nothing: the branch of a residual sum that passes its inputs on."""

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        return kernel

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        return nn.Identity(), inputs


@dataclass(frozen=True)
class Serial(Layer):
    """Layers one after another."""

    layers: tuple[Layer, ...]

    @property
    def weighted(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether one of them has weights."""
        return any(layer.weighted for layer in self.layers)

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        for layer in self.layers:
            kernel = layer.kernel(kernel)
        return kernel

    def full_before(self, after: bool) -> bool:
        """Ask the layers, the last one first."""
        for layer in reversed(self.layers):
            after = layer.full_before(after)
        return after

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        last = max((i for i, layer in enumerate(self.layers) if layer.weighted), default=-1)
        modules = []
        for i, layer in enumerate(self.layers):
            module, inputs = layer.build(inputs, units if i == last else Units(units.hidden, units.hidden), draw.at(i))
            modules.append(module)
        return nn.Sequential(*modules), inputs


@dataclass(frozen=True)
class Parallel(Layer):
    """The sum of what several layers make of the same inputs."""

    branches: tuple[Layer, ...]

    @property
    def weighted(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether one of them has weights."""
        return any(branch.weighted for branch in self.branches)

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel of the outputs from that of the inputs."""
        found = [branch.kernel(kernel) for branch in self.branches]
        shapes = [one.places for one in found]
        if len(set(shapes)) > 1:
            raise ShapeMismatch(f"branches of a sum end with places {shapes}; expected the same in all")
        shared = [b for b, one in zip(self.branches, found, strict=True) if not (b.weighted and one.gaussian)]
        if len(shared) > 1:
            raise ConfigError(
                f"the branches {' and '.join(map(str, shared))} of a sum are correlated, so their kernels do not add; "
                "all branches but one must end in Dense, Conv or Attention, with no activation behind it"
            )
        total = found[0]
        for one in found[1:]:
            total = _sum(total, one)
        return total

    def full_before(self, after: bool) -> bool:
        """Tell whether a branch needs them."""
        return any(branch.full_before(after) for branch in self.branches)

    def build(self, inputs: Shape, units: Units, draw: Draw) -> tuple[nn.Module, Shape]:
        """Return the finite layer, and the shape of one example behind it."""
        built = [branch.build(inputs, units, draw.at(i)) for i, branch in enumerate(self.branches)]
        shapes = [shape for _, shape in built]
        if len(set(shapes)) > 1:
            raise ShapeMismatch(
                f"branches of a sum end with {shapes} (channels, *places); expected the same in all: "
                "put a Dense in front, so that all have the network's width"
            )
        return Sum([module for module, _ in built]), shapes[0]


class Sum(nn.Module):
    """The finite sum of branches."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of what the branches make of ``x``."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def _sum(a: Kernel, b: Kernel) -> Kernel:
    ntk = None if a.ntk is None or b.ntk is None else a.ntk + b.ntk
    own = a.first + b.first, a.second + b.second
    both = a.gaussian and b.gaussian
    return replace(a, nngp=a.nngp + b.nngp, ntk=ntk, first=own[0], second=own[1], gaussian=both).with_diagonal()


def _checked(layers: Sequence[Any], what: str) -> tuple[Layer, ...]:
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = f"; write {layer.__name__}()" if isinstance(layer, type) and issubclass(layer, Layer) else ""
            raise ConfigError(f"{what} {i} is {layer!r}; expected a layer such as Dense() or Relu(){hint}")
    return tuple(layers)


def serial(*layers: Layer) -> Serial:
    """Return layers one after another; none at all is the identity.

    Raises:
        ConfigError: If something else is among them.
    """
    return Serial(_checked(layers, "layer"))


def parallel(*branches: Layer) -> Parallel:
    """Return the sum of what several layers make of the same inputs.

    Raises:
        ConfigError: If there are none, or something else is among them.
    """
    if not branches:
        raise ConfigError("a sum of no branches was asked for; expected one or more layers")
    return Parallel(_checked(branches, "branch"))


def residual(*layers: Layer) -> Parallel:
    """Return ``x + layers(x)``: the inputs, and layers one after another beside them."""
    return parallel(Identity(), serial(*layers))
