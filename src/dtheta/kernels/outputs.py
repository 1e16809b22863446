"""Outputs: from a model and a batch to (N, O), and rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.fit.batch import rows, taken

#: (model, batch) -> outputs (N, O), or (N,) for one.
Function: TypeAlias = Callable[[Any, Any], Tensor]


def run_batch(model: Any, batch: Any) -> Any:
    """Call a model by the names of a mapping, or with a tensor, or the items of a tuple."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def logits(model: Any, batch: Any) -> Tensor:
    """Return the logits of a model for a batch: a mapping goes in by name, a tuple by place, anything else as it is."""
    output = run_batch(model, batch)
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, tuple) and isinstance(output[0], Tensor):
        found = output[0]
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"the model returns a {type(output).__name__} without logits; say what the outputs are: "
            "function=lambda model, batch: model(**batch).last_hidden_state[:, 0]"
        )
    return found


def outputs(function: Function, model: Any, batch: Any, examples: int) -> Tensor:
    """Return f (N, O), checked.

    Raises:
        ShapeMismatch: If there is not one row of outputs for every example.
        ConfigError: If they are no tensor of floating-point numbers.
    """
    found = function(model, batch)
    if not isinstance(found, Tensor):
        raise ConfigError(f"function returned a {type(found).__name__}; expected a tensor (examples, outputs)")
    found = found.unsqueeze(1) if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[0] != examples or found.shape[1] == 0:
        raise ShapeMismatch(
            f"the outputs have shape {tuple(found.shape)} for {examples} examples; expected (examples, outputs): pick "
            "some with function=, such as lambda model, batch: model(**batch).logits[:, -1, [10, 20]]"
        )
    if not found.is_floating_point():
        raise ConfigError(f"the outputs are {found.dtype}, which nothing can be differentiated by; return the logits")
    return found


def require_dependence(found: Tensor) -> None:
    """Raise unless outputs have a gradient.

    Raises:
        ConfigError: If they have none.
    """
    if not found.requires_grad:
        raise ConfigError(
            "the outputs do not depend differentiably on anything that moves: function detached them, ran without "
            "gradients, or the selected parameters take no part"
        )


def pseudo(found: Tensor) -> Tensor:
    """Return sum_o f_o / sqrt(O) as one output (N, 1): its kernel has the mean one's expectation at random heads."""
    return found.sum(1, keepdim=True) / found.shape[1] ** 0.5


def batch_size(batch: Any, what: str) -> int:
    """Return the number of examples of a batch of tensors.

    Raises:
        ConfigError: If there are none.
    """
    count = rows(batch)
    if count < 1:
        raise ConfigError(f"{what} has no examples")
    return count


def probe_of(batch: Any) -> Any:
    """Return three examples, the first ones again where there are fewer."""
    count = rows(batch)
    return taken(batch, torch.arange(3) % count)
