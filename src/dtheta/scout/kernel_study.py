"""The tangent kernel of a method on a classification task, and what it says of training.

    K_nm = mean over directions o of the logits of  <d f_o(x_n) / d theta, d f_o(x_m) / d theta>
    f    = U h + c, the head, solved on the examples in closed form

Training is then kernel regression with K + h h' + 1: the method, and the head that trains beside it. Every figure
is that of a linear model of the network, at the parameters as they are.

Shape legend: N examples, C classes, O directions of the logits, E features.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.core.delta import Delta
from dtheta.kernels.closed_form import solve_head
from dtheta.kernels.dynamics import KernelDynamics, kernel_dynamics
from dtheta.kernels.learning_rate import max_learning_rate
from dtheta.kernels.leave_one_out import best_penalty, early_stopping_time, leave_one_out
from dtheta.kernels.measures import definiteness, effective_dimension
from dtheta.kernels.tangent import tangent_kernel
from dtheta.score.interval import Interval, wilson
from dtheta.scout.examples import examples_of
from dtheta.scout.head import directions, features_of, head_kernel, head_of, moved, projected
from dtheta.scout.regression import aligned

_TOP = 10  # eigenvalues that are reported


@dataclass(frozen=True)
class KernelFigures:
    """What a tangent kernel says of training on its examples.

    Attributes:
        examples: N.
        classes: C.
        outputs: O.
        trace: Of K / N: the mean squared length of an example's derivatives.
        spectrum: The largest eigenvalues of K / N, descending, ten at most.
        rank: Eigenvalues of K above rounding.
        effective_dimension: sum of l / (l + penalty) over the eigenvalues l of the regression.
        penalty: Of ridge regression, by leave-one-out.
        alignment: Of K with the classes, centered, in [0, 1].
        learning_rate: Bound of gradient descent on the mean squared error over examples and classes.
        stopping_time: Steps times learning rate at which the leave-one-out error of gradient descent is least.
        error_by_time: (time, leave-one-out mean squared error) on a logarithmic grid.
        accuracy: Share of the examples that the others predict right, by the ridge regression.
        head_accuracy: The same with the kernel of the head alone.
    """

    examples: int
    classes: int
    outputs: int
    trace: float
    spectrum: tuple[float, ...]
    rank: int
    effective_dimension: float
    penalty: float
    alignment: float
    learning_rate: float
    stopping_time: float
    error_by_time: tuple[tuple[float, float], ...]
    accuracy: Interval
    head_accuracy: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class KernelStudy:
    """A tangent kernel (N, N), the kernel of the head (N, N), labels (N,), all on the CPU, and their figures."""

    kernel: Tensor
    head_kernel: Tensor
    labels: Tensor
    figures: KernelFigures


def study_kernel(
    model: nn.Module,
    data: Any,
    source: Method | Delta,
    select: str | None = None,
    *,
    examples: int = 256,
    outputs: int = 2,
    head: str | None = None,
    seed: int = 0,
) -> KernelStudy:
    """Return the tangent kernel of a method, or of a delta that would train on, and what it says of training.

    Args:
        model: A classifier with a linear head, such as ``dt.classifier`` makes. Given back as it was.
        data: Labeled examples, whatever ``dt.fit`` takes.
        source: What would train: a method, or a delta of this model.
        select: Which parameters a method moves.
        examples: How many to look at, at most.
        outputs: Directions of the logits, one backward pass each; C - 1 are all.
        head: Name of the head; None finds the usual ones.
        seed: Of the method's random start, the directions and the order of the data.

    Raises:
        ConfigError: For data without class labels or with one class, or a model without a linear head.
        BaseMismatch: If a delta was made on another base.
        UnsupportedLayer: If the model mixes the examples of a batch, or has no place for the method.
    """
    last = head_of(model, head)
    found = examples_of(data, examples, last.module.out_features, seed)
    adapter = attach(model, source, select, seed=seed) if isinstance(source, Method) else attach(model, source)
    try:
        features = features_of(adapter, last, found, 32)
        solved = solve_head(features, _one_hot(found.labels, found.classes))
        along = directions(found.classes, outputs, seed)
        function = projected(last, solved.weight, along)
        batch = moved(found.of(torch.arange(len(found))), last.module.weight.device)
        kernel = tangent_kernel(adapter, batch, function=function).cpu()
    finally:
        adapter.detach()
    own = head_kernel(features)
    return KernelStudy(kernel, own, found.labels, figures(kernel, own, found.labels, found.classes, len(along)))


def figures(kernel: Tensor, own: Tensor, labels: Tensor, classes: int, outputs: int) -> KernelFigures:
    """Return the figures of a kernel (N, N) beside that of the head (N, N), for labels (N,)."""
    one_hot = _one_hot(labels, classes)
    target = one_hot - one_hot.mean(0)
    dynamics = kernel_dynamics(kernel + own, target)
    penalty, stop = best_penalty(dynamics), early_stopping_time(dynamics)
    alone = kernel_dynamics(own, target)
    values = torch.linalg.eigvalsh(kernel).flip(0)[:_TOP] / len(labels)
    return KernelFigures(
        examples=len(labels),
        classes=classes,
        outputs=outputs,
        trace=float(kernel.diagonal().mean()),
        spectrum=tuple(float(v) for v in values.clamp_min(0.0)),
        rank=definiteness(kernel).rank,
        effective_dimension=effective_dimension(kernel + own, penalty.value),
        penalty=penalty.value,
        alignment=aligned(kernel, target),
        learning_rate=max_learning_rate(kernel + own, outputs=classes),
        stopping_time=stop.value,
        error_by_time=tuple(zip(stop.grid, stop.scores, strict=True)),
        accuracy=_accuracy(dynamics, penalty.value, labels),
        head_accuracy=_accuracy(alone, best_penalty(alone).value, labels),
    )


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).double()


def _accuracy(dynamics: KernelDynamics, penalty: float, labels: Tensor) -> Interval:
    right = leave_one_out(dynamics, penalty=penalty).predictions.argmax(1) == labels
    return wilson(int(right.sum()), len(labels))
