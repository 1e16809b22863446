"""Pool: unlabeled examples that are picked by number, and the two views that consistency needs.

A pool is a tensor, a mapping of tensors (as tokenizers return), or any indexable sequence with a ``collate``. A view is
a function of a batch: *weak* changes little, *strong* much (crops, masked words). Both may use torch's global
generator, which is seeded before every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.core.seeds import generator, permutation
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.fit.batch import rows
from dtheta.fit.trainable import Batch

View: TypeAlias = Callable[[Batch], Batch]
#: (model, batch) -> logits (B, C).
Predict: TypeAlias = Callable[[Any, Batch], Tensor]


@dataclass(frozen=True, eq=False)
class Pool:
    """N unlabeled examples.

    Attributes:
        examples: A tensor or mapping of tensors with N rows, or a sequence of N items.
        collate: From a list of items to a batch, for a sequence.
    """

    examples: Any
    collate: Callable[[list[Any]], Batch] | None = None

    def __len__(self) -> int:
        if isinstance(self.examples, (Tensor, Mapping)):
            return rows(self.examples)
        return len(self.examples)

    def __getitem__(self, index: Tensor) -> Batch:
        if isinstance(self.examples, Tensor):
            return self.examples[index]
        if isinstance(self.examples, Mapping):
            return {name: tensor[index] for name, tensor in self.examples.items()}
        items = [self.examples[i] for i in index.tolist()]
        return items if self.collate is None else self.collate(items)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all examples, in order."""
        for index in torch.arange(len(self)).split(size):
            yield self[index]

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the numbers of the examples, shuffled by seed and epoch."""
        return permutation(len(self), generator(seed, "atlas/pool", epoch))


def pool_of(examples: Any, collate: Callable[[list[Any]], Batch] | None, size: int) -> Pool:
    """Return the pool of some examples.

    Raises:
        ConfigError: If there are none, or the size of a batch is no positive number.
    """
    pool = examples if isinstance(examples, Pool) else Pool(examples, collate)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"batch_size is {size!r}; expected a whole number, 1 or more")
    try:
        count = len(pool)
    except TypeError:
        kind = type(examples).__name__
        raise ConfigError(f"unlabeled examples are a {kind}; expected tensors or a sequence") from None
    if not count:
        raise ConfigError("there are no unlabeled examples to adapt to")
    return pool


def logits_of(predict: Predict, model: Any, batch: Batch) -> Tensor:
    """Return the logits (B, C) of a batch in float32 or float64.

    Raises:
        ShapeMismatch: If they are no matrix of two classes or more.
        NonFinite: If one of them is NaN or infinite.
    """
    found = predict(model, batch)
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] < 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ShapeMismatch(f"predict returned {shape}; expected logits (batch, classes) with two classes or more")
    if not bool(torch.isfinite(found).all()):
        raise NonFinite("predict returned logits that are not finite; lower lr, or look at the examples")
    return found if found.dtype == torch.float64 else found.float()
