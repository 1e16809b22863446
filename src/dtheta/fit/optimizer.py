"""The optimizer: AdamW or SGD over the groups that the method wants, the gradient's norm, and clipping.

AdamW: Loshchilov and Hutter 2019, arXiv 1711.05101. SGD is that of federated averaging and of theory. Parameters that
train in full (``attach(..., also=...)``: a displacement itself, not factors of one) may have a rate of their own,
``full_lr``: a good rate for factors is mostly too high there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.errors import ConfigError
from dtheta.fit.settings import Settings
from dtheta.fit.sharded import whole
from dtheta.fit.trainable import Trainable


def parameter_groups(adapter: Trainable, settings: Settings) -> list[dict[str, Any]]:
    """Return the method's groups with ``initial_lr`` and ``weight_decay``, full parameters at ``full_lr``.

    Raises:
        ConfigError: the groups do not hold every trainable parameter once, or nothing trains at ``full_lr``.
    """
    full = {id(p) for term in adapter.terms.values() if getattr(term, "materialize", False) for p in term.parameters()}
    if settings.full_lr is not None and not full:
        raise ConfigError("full_lr is given, but nothing trains in full; attach(..., also=...) makes it so")
    found: list[dict[str, Any]] = []
    for group in adapter.method.parameter_groups(adapter, settings.lr):
        split = settings.full_lr is not None
        factors = [p for p in group["params"] if not (split and id(p) in full)]
        rest = [p for p in group["params"] if split and id(p) in full]
        found += [{**group, "params": factors}] if factors else []
        found += [{**group, "params": rest, "lr": settings.full_lr}] if rest else []
    _check_cover(adapter, found)
    for group in found:
        group.setdefault("weight_decay", settings.weight_decay)
        group["initial_lr"] = group["lr"]
    return found


def _check_cover(adapter: Trainable, groups: list[dict[str, Any]]) -> None:
    times = Counter(id(p) for group in groups for p in group["params"])
    for name, parameter in adapter.trainable().items():
        if times[id(parameter)] != 1:
            raise ConfigError(
                f"{name} is {times[id(parameter)]} times in the parameter groups of the method; expected once"
            )


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """Return AdamW over the groups; fused where torch has it, which is several times faster for many small factors."""
    kinds = {p.device.type for group in groups for p in group["params"]}
    return torch.optim.AdamW(groups, fused=kinds <= {"cpu", "cuda"})


def made(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over the groups."""
    return adamw(groups) if settings.optimizer == "adamw" else torch.optim.SGD(groups, momentum=settings.momentum)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's rate to ``factor`` of its highest, and return the largest."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the Euclidean norm of all gradients together, a scalar on their device, the same on every process."""
    return whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def clip(parameters: Iterable[nn.Parameter], limit: float | None, norm: float) -> None:
    """Scale the gradients so that their norm is at most ``limit``; nothing happens where it is, or is not finite."""
    if limit is not None and math.isfinite(norm) and norm > limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm, dtype=torch.float32))
