"""What a batch is made of: how many rows, which of them are a process's own, how many items its mean loss is over.

    loss of a step = sum_i n_i loss_i / sum_i n_i        over micro-batches and processes i

n_i is the number of items that ``loss_i`` is the mean of. With it, neither a short last batch, nor padding, nor the
number of processes or of accumulated batches changes what a step minimizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import xxhash
from torch import Tensor

from dtheta.core.tensorfile import data_of
from dtheta.fit.trainable import Batch

IGNORED = -100  # the label that transformers and torch leave out of a loss


def tensors(batch: Batch) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors(value)


def rows(batch: Batch) -> int:
    """Return the first dimension of the first tensor that has one; 1 where there is none."""
    return next((len(t) for t in tensors(batch) if t.ndim), 1)


def share(batch: Batch, rank: int, size: int) -> tuple[Batch, bool]:
    """Return the rows of a batch that belong to process ``rank`` of ``size``, and whether there are any.

    A process for which there is no row gets the first one: it has to take part in the step, with weight zero.
    """
    count = rows(batch)
    start, stop = count * rank // size, count * (rank + 1) // size
    if start == stop:
        return _rows(batch, count, slice(0, 1)), False
    return (batch if stop - start == count else _rows(batch, count, slice(start, stop))), True


def taken(batch: Batch, which: Any) -> Batch:
    """Return the rows of a batch at a slice, or at an index tensor where everything in it is tensors."""
    return _rows(batch, rows(batch), which)


def _rows(batch: Batch, count: int, which: Any) -> Batch:
    if isinstance(batch, Tensor):
        return batch[which] if batch.ndim and len(batch) == count else batch
    if isinstance(batch, Mapping):
        return {name: _rows(value, count, which) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        if len(batch) == count and next(tensors(batch), None) is None:
            return batch[which]  # one text, name or number a row
        parts = [_rows(value, count, which) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def item_counter(model: Any, own_loss: bool) -> Callable[[Batch], int]:
    """Return the function that counts the items of a batch.

    With the model's own loss: the labels that count, as transformers does (those not -100; for a causal language model,
    not the first of a row, which nothing predicts). With a loss of the user's: the rows.
    """
    if not own_loss:
        return rows
    start = 1 if _shifts_labels(model) else 0

    def count(batch: Batch) -> int:
        given = batch if isinstance(batch, Mapping) else {}
        labels = given.get("shift_labels", given.get("labels"))
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            return rows(batch)
        counted = labels if "shift_labels" in given or labels.ndim < 2 else labels[..., start:]
        return int((counted != IGNORED).sum())

    return count


def _shifts_labels(model: Any) -> bool:
    """Tell whether a transformers model compares position t with label t + 1."""
    if not hasattr(model, "loss_type") or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    if model.loss_type is None:  # a class that is not called ...ForCausalLM, as GPT2LMHeadModel, gets the causal loss
        return bool(getattr(model, "can_generate", bool)())
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss  # only its models have a loss_type

    return LOSS_MAPPING.get(model.loss_type) is ForCausalLMLoss


def digest(batch: Batch) -> str:
    """Return a short hash of the tensors of a batch, or of a list of tensors."""
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors(batch):
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(data_of(tensor))
    return found.hexdigest()


def linked(before: str, batch: Batch) -> str:
    """Return the hash of a batch and of the hash before it, as hex.

    It covers tensors, arrays, texts, numbers and names, in mappings, lists and tuples; of any other object its type.
    """
    found = xxhash.xxh3_128(before.encode())
    for part in _parts(batch):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def _parts(batch: Any) -> Iterator[bytes | memoryview]:
    """Yield what a batch is made of, as bytes; each nesting says how long it is."""
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":
        yield f"array {batch.dtype} {batch.shape}".encode()
        yield batch.tobytes()
    elif isinstance(batch, Tensor):
        yield f"{batch.dtype} {tuple(batch.shape)}".encode()
        yield data_of(batch)
    elif isinstance(batch, Mapping):
        yield f"mapping {len(batch)}".encode()
        for name, value in batch.items():
            yield repr(name).encode()
            yield from _parts(value)
    elif isinstance(batch, (list, tuple)):
        yield f"sequence {len(batch)}".encode()
        for value in batch:
            yield from _parts(value)
    else:
        plain = isinstance(batch, (str, bytes, int, float, complex, np.generic, type(None)))
        yield (repr(batch) if plain else type(batch).__qualname__).encode("utf-8", "surrogatepass")
