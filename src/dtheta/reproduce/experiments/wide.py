"""A wide fully-connected network of rectifiers, and its tangent kernel without a gradient of its weights.

    a_0 = x,   z_l = W_l a_{l-1} / sqrt(n_{l-1}) + beta b_l,   a_l = max(z_l, 0),   f = z_L,   W, b ~ N(0, 1)
    Theta(x, x') = sum_l (a_{l-1} . a'_{l-1} / n_{l-1} + beta^2) (d_l . d'_l),   d_l = df / dz_l

A step of gradient descent adds a matrix of rank N to each weight matrix. For few examples, writing it into 10,000 x
10,000 weights would cost more than all the rest, so it is kept as two factors until there are many of them.

Shape legend: N examples, n neurons a layer, R columns of factors; everything float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.seeds import generator

_ROWS = 1000


class Layer:
    """Weights W (out, in) = ``base`` + ``left`` @ ``right``^T, with up to ``capacity`` columns kept apart."""

    def __init__(self, inputs: int, outputs: int, beta: float, seed: int, name: str) -> None:
        self.base = torch.randn(outputs, inputs, generator=generator(seed, f"{name} W"))
        self.bias = torch.randn(outputs, generator=generator(seed, f"{name} b"))
        self.scale, self.beta = inputs**-0.5, beta
        self.capacity = min(inputs, outputs) // 2
        self.left, self.right, self.used = torch.empty(0), torch.empty(0), 0

    def forward(self, a: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        z = _times_transposed(a, self.base)
        if self.used:
            z.addmm_(a @ self.right[:, : self.used], self.left[:, : self.used].mT)
        return z.mul_(self.scale).add_(self.bias, alpha=self.beta)

    def backward(self, d: Tensor) -> Tensor:
        """Gradients (N, out) of the outputs -> gradients (N, in) of the inputs."""
        g = d @ self.base
        if self.used:
            g.addmm_(d @ self.left[:, : self.used], self.right[:, : self.used].mT)
        return g.mul_(self.scale)

    def add(self, d: Tensor, a: Tensor) -> None:
        """Add scale * sum_i d_i a_i^T to the weights and beta * sum_i d_i to the bias, for d (N, out) and a (N, in)."""
        self.bias.add_(d.sum(0), alpha=self.beta)
        N = d.shape[0]
        if N > self.capacity // 4:
            self.base.addmm_(d.mT, a, alpha=self.scale)
            return
        if not self.left.numel():
            self.left = torch.empty(self.base.shape[0], self.capacity)
            self.right = torch.empty(self.base.shape[1], self.capacity)
        if self.used + N > self.capacity:
            self.base.addmm_(self.left[:, : self.used], self.right[:, : self.used].mT)
            self.used = 0
        self.left[:, self.used : self.used + N] = d.mT
        self.right[:, self.used : self.used + N] = a.mT * self.scale
        self.used += N


def _times_transposed(a: Tensor, base: Tensor) -> Tensor:
    """Return a @ base^T (N, out). For few examples it goes by blocks of base, in up to half the time."""
    if a.shape[0] > 128 or base.shape[0] < 2 * _ROWS:
        return a @ base.mT
    columns, z = a.mT.contiguous(), base.new_empty(base.shape[0], a.shape[0])
    for start in range(0, base.shape[0], _ROWS):
        torch.mm(base[start : start + _ROWS], columns, out=z[start : start + _ROWS])
    return z.mT.contiguous()


class Network:
    """``depth`` layers of weights, ``width`` neurons in each hidden one, one output."""

    def __init__(self, inputs: int, width: int, depth: int, beta: float, seed: int) -> None:
        sizes = [inputs, *[width] * (depth - 1), 1]
        self.layers = [Layer(sizes[l], sizes[l + 1], beta, seed, f"wide network {width} {l}") for l in range(depth)]
        self.beta = beta

    def activations(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs (N, in) of every layer, and the output (N,)."""
        found = [x]
        for layer in self.layers[:-1]:
            found.append(layer.forward(found[-1]).relu_())
        return found, self.layers[-1].forward(found[-1])[:, 0]

    def sensitivities(self, activations: list[Tensor]) -> list[Tensor]:
        """Return df / dz_l (N, out) of every layer, the first one first."""
        found = [torch.ones(activations[0].shape[0], 1)]
        for l in range(len(self.layers) - 1, 0, -1):
            found.append(self.layers[l].backward(found[-1]).mul_(activations[l] > 0))
        return found[::-1]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N,)."""
        return self.activations(x)[1]

    def kernel(self, x: Tensor, x2: Tensor | None = None) -> Tensor:
        """Tangent kernel (N, N2), float64; x2 None is x."""
        count = x.shape[0]
        a, _ = self.activations(x if x2 is None else torch.cat([x, x2]))
        total = torch.zeros((), dtype=torch.float64)
        for layer, inputs, d in zip(self.layers, a, self.sensitivities(a), strict=True):
            second = slice(None) if x2 is None else slice(count, None)
            forward = (inputs[:count] @ inputs[second].mT).double() * layer.scale**2 + self.beta**2
            total = total + forward * (d[:count] @ d[second].mT)
        return total

    def descend(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """One step of gradient descent on |f - y|^2 / (2 N); returns the outputs (N,) before it."""
        a, f = self.activations(x)
        weight = ((f - y) * (-rate / x.shape[0]))[:, None]
        for layer, inputs, d in zip(self.layers, a, self.sensitivities(a), strict=True):
            layer.add(d * weight, inputs)
        return f

    def nn(self) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of the weights and biases, to check with autograd."""
        weights = [
            layer.base + layer.left[:, : layer.used] @ layer.right[:, : layer.used].mT if layer.used else layer.base
            for layer in self.layers
        ]
        return [w.clone() for w in weights], [layer.bias.clone() for layer in self.layers]
