"""The labeled examples that scouting looks at, in two halves.

Each half is predicted with a head that only the other half has made, so no example's label is in what its own
derivatives are of. Halves are drawn class by class: the j-th example of a class goes to half j mod 2.

Shape legend: N examples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.fit.batch import IGNORED, rows, taken
from dtheta.fit.stream import as_batches

LEAST = 8  # examples; below, a half has too few to learn from


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and labels.

    Attributes:
        inputs: What the model takes, all examples in one batch.
        labels: Class ids (N,).
        classes: How many classes there are.
        halves: Indices of the two halves.
    """

    inputs: Any
    labels: Tensor
    classes: int
    halves: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, index: Tensor) -> Any:
        """Return the inputs of some examples, without tokens that are padding in all of them."""
        return _trimmed(taken(self.inputs, index))


def examples_of(data: Any, count: int, classes: int | None, seed: int) -> Examples:
    """Return the first ``count`` examples of a source of data, or all where there are fewer.

    Args:
        data: Whatever ``dt.fit`` trains on: a DataLoader, a Dataset or an iterable of batches, each a mapping with
            ``labels`` or a pair (inputs, labels).
        count: How many.
        classes: How many classes the model tells apart; None for as many as the labels name.
        seed: Of the order of a Dataset.

    Raises:
        ConfigError: For too few examples, examples of one class only, labels that are no class ids, or no labels.
        ShapeMismatch: If batches cannot be put together, such as tokens of several lengths without a mask of padding.
    """
    whole(count, "examples", least=LEAST)
    inputs, labels, found = [], [], 0
    for batch in as_batches(data, "train", None, None, seed):
        x, y = _apart(batch)
        inputs.append(x)
        labels.append(y)
        found += len(y)
        if found >= count:
            break
    if not labels:
        raise ConfigError("the data is empty; scouting looks at labeled examples")
    y = torch.cat(labels)[:count]
    _check(y, classes)
    joined = taken(_joined(inputs), torch.arange(len(y)))
    return Examples(joined, y, classes or int(y.max()) + 1, _halves(y))


def _apart(batch: Any) -> tuple[Any, Tensor]:
    """Return inputs and labels of a batch."""
    labels: Any = None
    inputs: Any = None
    if isinstance(batch, Mapping):
        inputs, labels = {k: v for k, v in batch.items() if k != "labels"}, batch.get("labels")
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, labels = batch
    if not isinstance(labels, Tensor):
        raise ConfigError(
            f"a batch is a {type(batch).__name__} without labels; expected a mapping with 'labels', or a pair of "
            "inputs and labels: texts become such batches by dtheta.data.batches.loader(texts, tokenizer)"
        )
    if labels.ndim != 1 or labels.is_floating_point() or rows(inputs) != len(labels):
        raise ConfigError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)} for {rows(inputs)} examples; expected one class "
            "id an example"
        )
    return inputs, labels.detach().cpu().long()


def _check(labels: Tensor, classes: int | None) -> None:
    counts = torch.bincount(labels[labels >= 0])
    if bool((labels < 0).any()) or (classes is not None and len(counts) > classes):
        most = "" if classes is None else f" below {classes}, the model's number of classes"
        wrong = labels[(labels < 0) | (labels >= (classes or len(counts)))][0]
        note = "; leave out examples that are to be ignored" if int(wrong) == IGNORED else ""
        raise ConfigError(f"label {int(wrong)} is no class id; expected whole numbers from 0{most}{note}")
    if len(labels) < LEAST:
        raise ConfigError(f"there are {len(labels)} examples; scouting needs at least {LEAST}, better 100 or more")
    if int((counts > 0).sum()) < 2:
        raise ConfigError(
            f"all {len(labels)} examples are of class {int(labels[0])}; there is nothing to tell apart. Is the data "
            "sorted by class? Give it shuffled, or more examples"
        )
    if int((counts > 1).sum()) < 2:
        raise ConfigError(
            f"only {int((counts > 1).sum())} of {int((counts > 0).sum())} classes have two examples or more; each half "
            "of the examples must have both sides of something: give more examples"
        )


def _halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of two halves; classes with an odd count give the one too many to either in turn."""
    second, turn = torch.zeros(len(labels), dtype=torch.bool), 0
    for label in labels.unique():
        index = torch.nonzero(labels == label).flatten()
        second[index[(torch.arange(len(index)) + turn) % 2 == 1]] = True
        turn += len(index) % 2
    return torch.nonzero(~second).flatten(), torch.nonzero(second).flatten()


def _joined(parts: list[Any], masked: bool = False) -> Any:
    """Return batches as one, padded on the right with zeros where their tokens differ in number and a mask tells."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts], "attention_mask" in first) for name in first}
    if isinstance(first, (tuple, list)):
        return tuple(_joined([part[i] for part in parts]) for i in range(len(first)))
    if not isinstance(first, Tensor):
        raise ConfigError(f"a batch holds a {type(first).__name__}; scouting takes batches of tensors")
    if len({p.shape[2:] for p in parts}) > 1 or len({p.ndim for p in parts}) > 1:
        raise ShapeMismatch(f"batches of shapes {[tuple(p.shape) for p in parts[:3]]} cannot be put together")
    if first.ndim < 2:
        return torch.cat(parts)
    width = max(p.shape[1] for p in parts)
    if not masked and any(p.shape[1] != width for p in parts):
        raise ShapeMismatch(
            f"batches of shapes {[tuple(p.shape) for p in parts[:3]]} have no 'attention_mask', so the model would "
            "take padding for what is said: pad them to one length, or give mappings with an attention_mask"
        )
    return torch.cat([F.pad(p, [0, 0] * (p.ndim - 2) + [0, width - p.shape[1]]) for p in parts])


def _trimmed(batch: Any) -> Any:
    """Return a batch of tokens without the places that no example of it uses."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return batch
    used = mask.bool().any(0)
    return {k: v[:, used] if isinstance(v, Tensor) and v.shape[:2] == mask.shape else v for k, v in batch.items()}
