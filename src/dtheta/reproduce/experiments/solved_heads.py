"""The last linear map of a bundled network: solved, and had by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.data.image_tasks import load_image_task
from dtheta.kernels.closed_form import solve_head
from dtheta.kernels.snnk import SNNKLayer
from dtheta.reproduce.experiments.timing import cpu_seconds

RATES = (1e-2, 3e-2, 1e-1)
WITHIN = 1.001  # of the optimum is how near a descent has to come


def head_times(seed: int, features: int, most: int) -> dict[str, Any]:
    """Return CPU seconds of a solved and of a trained map from random features of digits to classes.

    Args:
        seed: Key of the random features.
        features: Their number, ReLU.
        most: Steps of AdamW at most, at each of ``RATES``.

    Returns:
        ``solved``, the seconds of the solution, lambda chosen too; ``descent``, those of the fastest descent;
        ``reached``, whether it came near enough; ``accuracy`` of the solved map on test images.
    """
    train, test = digits()
    layer = SNNKLayer.of(nn.Linear(64, 1), "relu", features, seed=seed)
    with torch.no_grad():
        P, unseen = layer.phi(train[0]), layer.phi(test[0])
    head = solve_head(P, train[1])
    value = objective(P, F.one_hot(train[1], 10).float(), train[1], "mse", head.ridge)
    target = WITHIN * float(value(head.weight.float(), head.bias.float()))

    def descent(lr: float) -> tuple[bool, float]:
        steps: list[int | None] = []
        taken = cpu_seconds(lambda: steps.append(descended(value, (10, P.shape[1]), target, lr, most)))
        return steps[0] is None, taken

    failed, seconds = min(descent(lr) for lr in RATES)
    right = (head(unseen).argmax(1) == test[1]).double().mean()
    solved = cpu_seconds(lambda: solve_head(P, train[1]))
    return {"solved": solved, "descent": seconds, "reached": not failed, "accuracy": float(right)}


@cache
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return pixels (N, 64), centered and of mean norm 1, and labels (N,), to learn from and to judge by."""
    task = load_image_task("digits")
    center = task.train.images.flatten(1).float().mean(0)
    scale = (task.train.images.flatten(1).float() - center).norm(dim=1).mean()
    learn, judge = (
        ((part.images.flatten(1).float() - center) / scale, part.labels) for part in (task.train, task.test)
    )
    return learn, judge


def objective(P: Tensor, Y: Tensor, labels: Tensor, loss: str, ridge: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the problem that ``solve_head`` solves, as a mean over examples, of weight and bias.

    Args:
        P: Features (N, W).
        Y: Targets (N, D) of the loss "mse".
        labels: Class ids (N,) of the loss "logistic".
        loss: "mse" or "logistic".
        ridge: lambda.
    """

    def value(weight: Tensor, bias: Tensor) -> Tensor:
        outputs, penalty = P @ weight.mT + bias, ridge * weight.square().sum()
        if loss == "mse":
            return ((Y - outputs).square().sum() + penalty) / len(P)
        return F.cross_entropy(outputs, labels) + penalty / 2 / len(P)

    return value


def descended(value: Callable[..., Tensor], shape: tuple[int, int], target: float, lr: float, most: int) -> int | None:
    """Return the steps of AdamW on full batches until the loss is at ``target``; None where ``most`` do not suffice."""
    weight, bias = torch.zeros(shape, requires_grad=True), torch.zeros(shape[0], requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=lr, weight_decay=0.0)
    for step in range(most):
        optimizer.zero_grad()
        now = value(weight, bias)
        if now.item() <= target:
            return step
        now.backward()
        optimizer.step()
    return None
