"""Texts as batches for what needs no labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dtheta.data.batches import EncodedTexts
from dtheta.data.text import Texts


def unlabeled(texts: Sequence[str], tokenizer: Any, size: int, length: int) -> list[dict[str, Tensor]]:
    """Return batches of ``size`` texts in their order, cut at ``length`` tokens, without labels."""
    held = EncodedTexts(Texts(tuple(texts), (0,) * len(texts)), tokenizer, length)
    found = [held.collate([held[i] for i in range(j, min(j + size, len(held)))]) for j in range(0, len(held), size)]
    return [{k: v for k, v in batch.items() if k != "labels"} for batch in found]
