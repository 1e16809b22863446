"""Texts to batches: token ids, a mask and labels, in an order that is a pure function of (seed, epoch).

A batch is ``{"input_ids": (B, T), "attention_mask": (B, T), "labels": (B,)}`` of int64, T the longest of its texts.
Example i of epoch e stands at the place of ``key(seed, "order/e", i)`` among all keys, so neither the batch size, nor
the number of workers, nor what ran before can change the order, and a resumed run goes on with the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dtheta.core.seeds import generator
from dtheta.data.text import Texts, keyed_order
from dtheta.errors import ConfigError

Batch = dict[str, Tensor]
_UNLIMITED = 10**6  # a tokenizer that knows no limit says 1e30


class EncodedTexts(Dataset[tuple[list[int], int]]):
    """Texts as token ids, cut at ``max_length`` tokens; item i is ``(ids, label)``."""

    def __init__(self, texts: Texts, tokenizer: Any, max_length: int = 128) -> None:
        """Tokenize ``texts`` once with a transformers tokenizer; ConfigError where the model cannot take the length."""
        limit = tokenizer.model_max_length
        if not 1 <= max_length <= min(limit, _UNLIMITED):
            raise ConfigError(f"max_length={max_length} must lie between 1 and {min(limit, _UNLIMITED)}, the model's")
        encoded = tokenizer(list(texts.texts), truncation=True, max_length=max_length)
        self.ids: list[list[int]] = encoded["input_ids"]
        self.labels = texts.labels
        self.padding = tokenizer.pad_token_id or 0  # where there is none any id will do: the mask hides it

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        return self.ids[index], self.labels[index]

    def collate(self, items: Sequence[tuple[list[int], int]]) -> Batch:
        """Return a batch of items, padded on the right to the longest."""
        width = max(1, max(len(ids) for ids, _ in items))
        input_ids = torch.full((len(items), width), self.padding, dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for row, (ids, _) in enumerate(items):
            input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            mask[row, : len(ids)] = 1
        labels = torch.tensor([label for _, label in items], dtype=torch.int64)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


class KeyedOrder(Sampler[int]):
    """The order of the examples in an epoch; ``set_epoch`` chooses it, as Accelerate does."""

    def __init__(self, count: int, seed: int = 0) -> None:
        """Order ``count`` examples by ``seed``, beginning with epoch 0."""
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(keyed_order(self.count, self.seed, f"order/{self.epoch}"))


def loader(
    texts: Texts, tokenizer: Any, batch_size: int = 32, max_length: int = 128, seed: int = 0, shuffle: bool = True
) -> DataLoader[Batch]:
    """Return a DataLoader over the texts; the last batch of an epoch may be smaller.

    Args:
        texts: what to iterate over.
        tokenizer: a transformers tokenizer.
        batch_size: texts a batch.
        max_length: tokens kept of a text.
        seed: of the order; the epoch is set by ``loader(...).sampler.set_epoch(e)``.
        shuffle: False keeps the order of ``texts``, as evaluation wants it.

    Raises:
        ConfigError: a batch size below 1, or a length that the model cannot take.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    encoded = EncodedTexts(texts, tokenizer, max_length)
    return DataLoader(
        encoded,  # type: ignore[arg-type]  # a DataLoader is typed by its dataset, but yields what collate returns
        batch_size=batch_size,
        sampler=KeyedOrder(len(encoded), seed) if shuffle else None,
        collate_fn=encoded.collate,
        generator=generator(seed, "loader"),  # else every pass would draw from torch's global generator
    )


def batches(
    texts: Texts, tokenizer: Any, batch_size: int = 32, max_length: int = 128, seed: int = 0, epochs: int | None = 1
) -> Iterator[Batch]:
    """Yield the batches of ``epochs`` shuffled epochs, one after the other; None goes on forever.

    Arguments and errors are those of ``loader``.
    """
    source = loader(texts, tokenizer, batch_size, max_length, seed)
    epoch = 0
    while epochs is None or epoch < epochs:
        source.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from source
        epoch += 1
