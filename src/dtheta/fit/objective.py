"""Objective: a batch in, a scalar loss out; the module that is trained, and that a distributed wrapper wraps.

The loss of the user gets the adapter itself and never a wrapper, so it may call any of its methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dtheta.errors import ConfigError
from dtheta.fit.trainable import Batch, Loss


def model_loss(model: Any, batch: Batch) -> Tensor:
    """Return ``model(**batch).loss``.

    Raises:
        ConfigError: the batch is no mapping, or the model returns no loss.
    """
    if not isinstance(batch, Mapping):
        raise ConfigError(
            f"a batch is a {type(batch).__name__}, and only a mapping can be passed to the model by name; "
            "give loss=(model, batch) -> scalar"
        )
    return _loss_of(model(**batch), batch)


def _loss_of(output: Any, batch: Mapping[str, Any]) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None:
        given = ", ".join(map(str, batch))
        raise ConfigError(f"the model returned no loss for a batch of {given}; put labels in it, or give loss=...")
    return loss


class Objective(nn.Module):
    """The loss of an adapter as a module."""

    def __init__(self, adapter: nn.Module, loss: Loss) -> None:
        """Take the loss of ``adapter``."""
        super().__init__()
        self.adapter = adapter
        self.loss = loss

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch.

        Raises:
            ConfigError: it is no scalar, or does not depend on any trainable parameter.
        """
        value = self.loss(self.adapter, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"the loss must be a scalar tensor, got {found}; return its mean")
        if not value.requires_grad:
            raise ConfigError(
                "the loss does not depend on any trainable parameter: it was detached or computed without gradients, "
                "or the model hands its weights past the modules that the adapter is attached to"
            )
        return value.reshape(())
