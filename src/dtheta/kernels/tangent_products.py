"""tangent_operator: products with the tangent kernel, which is never formed.

    K v = J (J^T v)        a backward pass over the examples, and one through a backward pass
    trace   E (J^T z).(J^T z), z of random signs           Hutchinson 1989
    top     leading eigenpairs by block Lanczos            core/krylov.py
    solve   (K + ridge I)^-1 y by conjugate gradients      Hestenes and Stiefel 1952

A product costs about as much as eight forward passes over all examples, where the whole kernel costs O backward passes
and N^2 O^2 P multiplications. It holds two vectors of the size of what moves, and one chunk of examples.

Shape legend: N examples, O outputs, P entries of what moves; n = N O, or N for one output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.core.arguments import number, whole
from dtheta.core.krylov import KrylovBasis, leading_pairs
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NotConverged, ShapeMismatch, UnsupportedLayer
from dtheta.fit.batch import rows
from dtheta.kernels.assemble import windowed
from dtheta.kernels.jacobians import Called, differentiable
from dtheta.kernels.outputs import Function, batch_size, logits, probe_of, require_dependence
from dtheta.kernels.passes import Problem
from dtheta.kernels.study import outputs_alone, require_apart
from dtheta.kernels.subject import Target, still, targets_of
from dtheta.kernels.sweeps import chunks


class TangentOperator:
    """The tangent kernel of examples as a symmetric positive semi-definite operator on vectors (n,), in float64.

    A vector counts the examples first and their outputs within: entry ``n O + o``. For "mean" and "pseudo" it has one
    entry an example.

    Attributes:
        examples: N.
        outputs: O.
        size: n.
        products: How often the examples went through the model for a product so far.
    """

    def __init__(self, problem: Problem, batch: Any, mean: bool, chunk: int) -> None:
        self._problem, self._batch, self._mean, self._chunk = problem, batch, mean, chunk
        self._called = Called(problem, problem.targets)
        self._inside = _windows(problem.targets, self._called.moving)
        self.examples = rows(batch)
        self.products = 0
        with still(problem.model, list(problem.targets)):
            probe, alone = probe_of(batch), outputs_alone(problem, batch)
            f = problem.outputs(probe, rows(probe))
            require_apart(alone, f)
            require_dependence(f)
        self.outputs = f.shape[1]
        self.size = self.examples * (1 if mean else self.outputs)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return K v (n,), or K V (n, k), in float64.

        Raises:
            ShapeMismatch: If the vectors have another length.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != self.size:
            raise ShapeMismatch(
                f"the kernel multiplies ({self.size},) or ({self.size}, k); found {tuple(vectors.shape)}"
            )
        columns = vectors[:, None] if vectors.ndim == 1 else vectors
        found = torch.stack([self._product(column) for column in columns.unbind(1)], 1)
        return found[:, 0] if vectors.ndim == 1 else found

    def _product(self, vector: Tensor) -> Tensor:
        if not self._mean:
            return self.forward(self.backward(vector.view(self.examples, self.outputs))).flatten().to(vector.device)
        total = torch.zeros(self.examples, dtype=torch.float64, device=vector.device)
        for o in range(self.outputs):
            only = torch.zeros(self.examples, self.outputs, dtype=vector.dtype, device=vector.device)
            only[:, o] = vector
            total += self.forward(self.backward(only))[:, o].to(total) / self.outputs
        return total

    def backward(self, weights_NO: Tensor) -> dict[str, Tensor]:
        """Return J^T w: the gradient of sum_no w_no f_no, by parameter."""
        moving = self._called.moving
        total = {name: torch.zeros_like(p, requires_grad=False) for name, p in moving.items()}
        with still(self._problem.model, list(self._problem.targets)):
            for start, examples, part in chunks(self._batch, self._chunk):
                f = self._problem.outputs(part, examples)
                value = (f * weights_NO[start : start + examples].to(f)).sum()
                found = torch.autograd.grad(value, list(moving.values()), allow_unused=True)
                for into, gradient in zip(total.values(), found, strict=True):
                    if gradient is not None:
                        into += gradient
        return self._within(total)

    def _within(self, direction: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a direction without the entries of parameters that lie outside of the slices that move."""
        return {name: d * self._inside[name] if name in self._inside else d for name, d in direction.items()}

    def forward(self, direction: dict[str, Tensor]) -> Tensor:
        """Return J d (N, O), float64: how outputs move when the parameters move along a direction.

        As the derivative by w of (J^T w) . d, which is linear in w: the very J of the backward pass, where forward-mode
        differentiation has rules of its own (a table's padding row does not train, but its entries count).
        """
        self.products += 1
        moving, within, found = list(self._called.moving.values()), list(self._within(direction).values()), []
        with still(self._problem.model, list(self._problem.targets)), differentiable():
            for _, examples, part in chunks(self._batch, self._chunk):
                f = self._problem.outputs(part, examples)
                found.append(_along(f, moving, within))
        return torch.cat(found)

    def trace(self, samples: int = 16, seed: int = 0) -> tuple[float, float]:
        """Return an unbiased estimate of the trace and its standard error.

        Args:
            samples: Vectors of random signs, each a backward pass over the examples; 2 or more.
            seed: Of the signs.
        """
        draw = generator(seed, "tangent trace")
        found = []
        for _ in range(whole(samples, "samples", 2)):
            signs = torch.randint(2, (self.examples, self.outputs), generator=draw, device="cpu").double() * 2 - 1
            found.append(sum(float(g.double().square().sum()) for g in self.backward(signs).values()))
        values = torch.tensor(found, dtype=torch.float64) / (self.outputs if self._mean else 1)
        return float(values.mean()), float(values.std()) / len(found) ** 0.5

    def top(self, count: int, accuracy: float = 1e-3, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the leading eigenvalues (count,), descending, and eigenvectors (n, count).

        Args:
            count: How many.
            accuracy: Relative error of the square roots of the eigenvalues.
            seed: Of the start.

        Raises:
            ConfigError: For a count below 1 or above n.
            NotConverged: If the accuracy is not reached, as for eigenvalues beside each other.
        """
        if not 1 <= whole(count, "count", 1) <= self.size:
            raise ConfigError(f"count is {count}; expected 1 to {self.size}")
        draw = generator(seed, "tangent top")
        first = 2 * count + 8
        if 2 * first >= self.size:  # the Krylov space would be the whole one
            values, vectors = torch.linalg.eigh(self @ torch.eye(self.size, dtype=torch.float64))
            return values.flip(0)[:count], vectors.flip(1)[:, :count]

        def random(k: int) -> Tensor:
            return torch.randn(k, self.size, generator=draw, dtype=torch.float64, device="cpu")

        basis = KrylovBasis(lambda v: (self @ v.mT).mT, random(1), random, capacity=first + count + 8)
        pairs = leading_pairs(basis, count, accuracy, first, count + 4)
        if pairs.error > accuracy:
            raise NotConverged(
                f"the {count} leading eigenvalues are within {pairs.error:.1g}, not {accuracy:.1g}; ask for fewer, a "
                "larger accuracy=, or form the kernel with dt.tangent_kernel"
            )
        return pairs.theta, pairs.vectors.mT

    def solve(self, y: Tensor, ridge: float, tolerance: float = 1e-6, most: int = 1000) -> Tensor:
        """Return (K + ridge I)^-1 y (n,).

        Args:
            y: (n,).
            ridge: Above 0.
            tolerance: Of the residual's norm, relative to that of y.
            most: Products, at most.

        Raises:
            ConfigError: For a ridge of 0 or less.
            ShapeMismatch: If y has another shape.
            NotConverged: If the residual is larger after ``most`` products; a larger ridge needs fewer.
        """
        if y.shape != (self.size,):
            raise ShapeMismatch(f"y has shape {tuple(y.shape)}; expected ({self.size},): solve one column at a time")
        if number(ridge, "ridge") <= 0:
            raise ConfigError(f"ridge is {ridge}; expected a number above 0: the kernel alone may be singular")
        y = y.double()
        x, r = torch.zeros_like(y), y.clone()
        p, square = r.clone(), r @ r
        goal = tolerance * float(y.norm())
        for _ in range(most):
            if float(square) ** 0.5 <= goal:
                return x
            image = self @ p + ridge * p
            step = square / (p @ image)
            x, r = x + step * p, r - step * image
            square, before = r @ r, square
            p = r + square / before * p
        if float(square) ** 0.5 <= goal:
            return x
        raise NotConverged(
            f"after {most} products the residual is {float(square) ** 0.5 / max(float(y.norm()), 1e-300):.1g} of y; "
            f"expected {tolerance:.1g}: raise ridge= or most="
        )


def _windows(targets: Sequence[Target], moving: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, by name, which entries of a parameter move, where those are slices of it."""
    names = {id(p): name for name, p in moving.items()}
    found: dict[str, Tensor] = {}
    for target in targets:
        if target.term is None and target.site is not None and target.site.window is not None:
            (parameter,) = target.moving.values()
            inside = found.setdefault(
                names[id(parameter)], torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
            )
            inside.view(-1)[windowed(target, torch.arange(parameter.numel(), device=parameter.device))] = True
    return found


def _along(f: Tensor, moving: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """Return J d (N, O) as the derivative by w of (J^T w) . d.

    Raises:
        UnsupportedLayer: If the outputs cannot be differentiated twice.
    """
    w = torch.zeros_like(f, requires_grad=True)
    try:
        gradients = torch.autograd.grad(f, moving, w, create_graph=True, allow_unused=True)
        products = [(g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None]
        found = torch.autograd.grad(torch.stack(products).sum(), w)[0] if products else torch.zeros_like(f)
        return found.detach().double()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UnsupportedLayer(
            f"torch cannot differentiate this model twice ({str(error).splitlines()[0]}), which products with the "
            "kernel need; form the kernel, which does not: dt.tangent_kernel"
        ) from error


def tangent_operator(
    model: nn.Module,
    x: Any,
    outputs: Literal["full", "mean", "pseudo"] = "full",
    *,
    select: str | None = None,
    function: Function | None = None,
    chunk: int = 64,
) -> TangentOperator:
    """Return the tangent kernel of examples as an operator: ``operator @ v``, ``trace``, ``top``, ``solve``.

    Args:
        model: Any module that can be differentiated twice; or an adapter, as for ``tangent_kernel``.
        x: N examples, as for ``tangent_kernel``.
        outputs: "full" for all outputs; "pseudo" for sum_o f_o / sqrt(O); "mean" for the mean over outputs, each
            product of which costs as much as O products.
        select: Which parameters of a plain model move; None for all that train.
        function: (model, batch) -> outputs; by default the logits.
        chunk: Examples in one pass.

    Raises:
        ConfigError, ShapeMismatch, UnsupportedLayer: As ``tangent_kernel``.
    """
    known = ("full", "mean", "pseudo")
    if outputs not in known:
        raise ConfigError(f"outputs is {outputs!r}; expected one of {', '.join(known)}")
    batch_size(x, "x")
    problem = Problem(function or logits, model, targets_of(model, select), outputs == "pseudo")
    return TangentOperator(problem, x, outputs == "mean", whole(chunk, "chunk", 1))
