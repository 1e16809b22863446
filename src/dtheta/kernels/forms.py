"""Forms: what a use of a parameter keeps of a forward pass, and the tangent that it becomes with the gradients.

    Product      y = x W^T or x W            Outer
    Convolution  y = patches(x) W^T          Outer over unfolded patches; Direct where channels come in groups
    Lookup       y = W[index]                Rows
    Scaled       y = ... + factor * w        Direct: broadcast weights, biases, scales of normalization

Gradients come by output, in the layout of what came out of the call; the tangents have the examples in front.

Shape legend: N examples, O outputs, T places, d1 and d2 widths in and out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.core.tangents import Direct, Outer, Rows, Tangent
from dtheta.kernels.layouts import Layout


class Form(ABC):
    """What a use keeps of the forward pass."""

    @abstractmethod
    def tangent(self, gradients: Sequence[Tensor], layout: Layout, examples: int) -> Tangent:
        """Return the derivatives by what was used, from the gradients of each output by the call's result."""

    def kept(self) -> Sequence[Tensor]:
        """Return the tensors of the forward pass that must stay as they are until the backward passes are done."""
        return ()


@dataclass(frozen=True, eq=False)
class Product(Form):
    """x (..., d1) times a matrix, to (..., d2); ``transposed`` where it is stored as (d1, d2)."""

    inputs: Tensor
    transposed: bool = False

    def tangent(self, gradients: Sequence[Tensor], layout: Layout, examples: int) -> Outer:
        """Return the outer products."""
        return Outer(places(self.inputs, layout, examples), stacked(gradients, layout, examples), self.transposed)

    def kept(self) -> Sequence[Tensor]:
        """Return the inputs."""
        return (self.inputs,)


@dataclass(frozen=True, eq=False)
class Lookup(Form):
    """Rows (...) of a table (count, d), to (..., d); gradients of ``padding`` and of the sign -1 as torch has them."""

    index: Tensor
    count: int
    padding: int | None = None
    sign: float = 1.0

    def tangent(self, gradients: Sequence[Tensor], layout: Layout, examples: int) -> Rows:
        """Return the gathered rows."""
        index = layout.by_example(self.index, examples).reshape(examples, -1)
        g = stacked(gradients, layout, examples)
        if self.padding is not None:
            g = g * (index != self.padding)[:, None, :, None]
        return Rows(index, g if self.sign == 1.0 else g * self.sign, self.count)

    def kept(self) -> Sequence[Tensor]:
        """Return the index."""
        return (self.index,)


@dataclass(frozen=True, eq=False)
class Scaled(Form):
    """A tensor of ``shape`` that is broadcast to the result's shape, times ``factor`` (None for 1) and ``sign``."""

    shape: tuple[int, ...]
    factor: Tensor | None = None
    sign: float = 1.0

    def tangent(self, gradients: Sequence[Tensor], layout: Layout, examples: int) -> Direct:
        """Return the sums over what was broadcast, in float32 or wider."""
        return Direct(torch.stack([self._reduced(g, layout, examples) for g in gradients], 1))

    def _reduced(self, gradient: Tensor, layout: Layout, examples: int) -> Tensor:
        moved = wide(gradient) if self.factor is None else wide(gradient) * self.factor
        apart = layout.by_example(moved if self.sign == 1.0 else moved * self.sign, examples)
        rest = apart.sum((1 + layout.axis, 2 + layout.axis))  # (N, the other axes)
        padded = (1,) * (gradient.ndim - len(self.shape)) + self.shape
        others = padded[: layout.axis] + padded[layout.axis + 1 :]
        return rest.sum_to_size(examples, *others).reshape(examples, -1)

    def fits(self, layout: Layout, ndim: int) -> bool:
        """Tell whether the tensor has one entry for all examples."""
        at = layout.axis - (ndim - len(self.shape))
        return at < 0 or self.shape[at] == 1

    def kept(self) -> Sequence[Tensor]:
        """Return the factor."""
        return () if self.factor is None else (self.factor,)


@dataclass(frozen=True, eq=False)
class Whole(Form):
    """A tensor made of parameters alone that has an entry for every example itself, such as an expanded token."""

    def tangent(self, gradients: Sequence[Tensor], layout: Layout, examples: int) -> Direct:
        """Return the gradients as they are, in float32 or wider."""
        return Direct(torch.stack([layout.by_example(wide(g), examples).reshape(examples, -1) for g in gradients], 1))


@dataclass(frozen=True, eq=False)
class Convolution(Form):
    """x (B, c_in, ...) by kernels (c_out, c_in / groups, ...), to (B, c_out, ...)."""

    inputs: Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def tangent(self, gradients: Sequence[Tensor], layout: Layout, examples: int) -> Tangent:
        """Return the outer products of patches and gradients."""
        patches = self._patches()  # (B, L, c_in, kernel)
        flat = [g.flatten(2).mT for g in gradients]  # (B, L, c_out)
        a = places(patches.flatten(2), layout, examples)
        g = stacked(flat, layout, examples)
        if self.groups == 1:
            return Outer(a, g)
        a_parts = a.unflatten(2, (self.groups, -1))
        g_parts = g.unflatten(3, (self.groups, -1))
        return Direct(torch.einsum("ntgc,notgr->nogrc", a_parts, g_parts).flatten(2))

    def _patches(self) -> Tensor:
        """Return the patches (B, L, c_in, entries of the kernel) that meet the kernel at each of L places."""
        x = F.pad(self.inputs, [n for pair in reversed(self.padding) for n in pair])
        dims = len(self.kernel)
        for i, (size, step, apart) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            x = x.unfold(2 + i, (size - 1) * apart + 1, step)[..., ::apart]
        sites, taps = list(range(2, 2 + dims)), list(range(2 + dims, 2 + 2 * dims))
        x = x.permute(0, *sites, 1, *taps)
        return x.reshape(x.shape[0], math.prod(x.shape[1 : 1 + dims]), self.inputs.shape[1], math.prod(self.kernel))

    def kept(self) -> Sequence[Tensor]:
        """Return the inputs."""
        return (self.inputs,)


def places(tensor: Tensor, layout: Layout, examples: int) -> Tensor:
    """Return a tensor (..., d) of the batch as (N, T, d), in float32 or wider."""
    return wide(layout.by_example(tensor, examples).reshape(examples, -1, tensor.shape[-1]))


def stacked(gradients: Sequence[Tensor], layout: Layout, examples: int) -> Tensor:
    """Return gradients (..., d), one an output, as (N, O, T, d).

    In memory the outputs of a place stand beside each other, as the product with the inputs of that place reads them.
    """
    if len(gradients) == 1:
        return places(gradients[0], layout, examples).unsqueeze(1)
    return torch.stack([places(g, layout, examples) for g in gradients], 2).transpose(1, 2)


def wide(tensor: Tensor) -> Tensor:
    """Return 16-bit floats as float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
