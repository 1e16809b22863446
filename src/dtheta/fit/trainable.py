"""What the loop can train: a model with trainable terms beside it, and a method that knows their gradients.

The loop knows no method. An adapter of any verb package, or one's own, trains if it has these attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

#: A batch is whatever the model or the loss takes: a mapping of tensors, a tuple, a tensor.
Batch: TypeAlias = Any
#: (model, batch) -> scalar tensor, the mean over the items of the batch.
Loss: TypeAlias = Callable[[Any, Batch], Tensor]


class Rule(Protocol):
    """The part of a method that training needs."""

    def parameter_groups(self, adapter: Any, lr: float) -> list[dict[str, Any]]:
        """Return optimizer groups that hold every trainable parameter once, with their ``lr``."""
        ...

    def add_gradient(self, adapter: Any, lr: float) -> None:
        """Add the method's own gradient to ``.grad``; ``lr`` is the highest rate of the schedule."""
        ...


class Trainable(Protocol):
    """An ``nn.Module`` whose ``terms`` train beside a ``model`` that does not.

    A term with a true ``materialize`` is the displacement itself and not factors of it; it trains at ``full_lr``.
    """

    model: nn.Module
    terms: nn.ModuleDict
    method: Any  # a Rule; typed loosely because protocols do not mix with the frozen dataclasses that methods are

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by name."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        ...
