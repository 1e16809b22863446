"""Judging deltas of classifiers by labeled texts: which are classified right, with a delta and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from dtheta.core.delta import Delta
    from dtheta.data.batches import Batch, EncodedTexts
    from dtheta.data.text import Texts
    from dtheta.score import Interval

_LENGTH = 128  # tokens of a text where a delta does not say how many it was trained on


def max_length(task: Mapping[str, Any]) -> int:
    """Return at how many tokens the training of a delta cut its texts; 128 where it does not say."""
    return task.get("max_length") or _LENGTH  # a merged folder says null of what its delta did not say


def encoded(texts: Texts, tokenizer: Any, task: Any) -> EncodedTexts:
    """Return texts as token ids, cut as the delta's training cut them."""
    from dtheta.data.batches import EncodedTexts

    return EncodedTexts(texts, tokenizer, max_length(task))


def batches(texts: EncodedTexts, size: int = 64) -> list[Batch]:
    """Return the texts in batches of like length."""
    from dtheta.adapt.frozen import by_length

    return [batch for _, batch in by_length(texts, size)]


def right(net: nn.Module, texts: EncodedTexts, delta: Delta | None = None) -> Tensor:
    """Return 1 where a network, with a delta on it if one is given, classifies a text right (N,)."""
    import torch

    from dtheta.adapt.frozen import predicted_logits
    from dtheta.core.apply import applied
    from dtheta.score import Correct

    if delta is None:
        return Correct()(predicted_logits(net, texts), torch.tensor(texts.labels))
    with applied(net, delta):
        return right(net, texts)


def accuracy(right_N: Tensor) -> Interval:
    """Return the share of ones, with its Wilson interval."""
    from dtheta.score import wilson

    return wilson(float(right_N.sum()), len(right_N))
