"""Adapters that have moved: what the tests against peft export, read and compare."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.core.delta import Delta
from tests.shaken import shaken


def moved(model: nn.Module, method: Method, select: str | None = None, size: float = 0.05) -> Delta:
    """The delta of an adapter whose factors were shaken; the model is left as it was."""
    adapter = shaken(attach(model, method, select), size)
    delta = adapter.delta()
    adapter.detach()
    return delta


def outputs(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """The model's output in evaluation mode, without a graph."""
    was = model.training
    model.eval()
    with torch.no_grad():
        result = model(*inputs)
    model.train(was)
    if isinstance(result, Tensor):
        return result
    return result.logits if hasattr(result, "logits") else result[0]


def with_delta(model: nn.Module, delta: Delta, inputs: Sequence[Tensor]) -> Tensor:
    """The output of a copy of the base whose weights are base plus dense change: the plain reference."""
    reference = copy.deepcopy(model)
    named = dict(reference.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, change in delta.changes.items():
            named[name].add_(change.dense().reshape(named[name].shape))
    return outputs(reference, inputs)
