"""Stream: batches without end, whose order is a pure function of (seed, epoch), and which can be wound to any place.

Epoch e starts with the generators of the loader and its samplers seeded by (seed, their own seed, e) and with
``set_epoch(e)`` where there is one; each fetch seeds the global generators by (seed, e, place). So shuffling and random
augmentation repeat exactly, and winding to a place is fetching from the start of its epoch.

What random augmentation depends on besides:

    a Dataset                         on nothing: each item is keyed by (seed, e, index), see ``items``
    a DataLoader without workers      on its batch size: items of a batch draw one after the other
    a DataLoader with workers         on their number as well: torch seeds each worker, from (seed, e), once an epoch.
                                      ``KeyedItems(dataset, seed)`` in it makes the items independent of both
    an IterableDataset, an iterable   on what it does itself, with the global generators keyed by (seed, e, place)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dtheta.core.seeds import key
from dtheta.errors import ConfigError
from dtheta.fit.items import KeyedItems
from dtheta.fit.randomness import seed_all
from dtheta.fit.trail import Trail
from dtheta.fit.trainable import Batch

BATCH_SIZE = 32


def as_batches(
    source: Any, what: str, batch_size: int | None, collate: Callable[[list[Any]], Batch] | None, seed: int | None
) -> Iterable[Batch]:
    """Return the iterable of batches that a source of data stands for.

    Args:
        source: a DataLoader, a Dataset, or any iterable of batches.
        what: "train" or "eval", for messages.
        batch_size: rows a batch, of a Dataset; 32 if None.
        collate: how the items of a Dataset become a batch; its own ``collate`` method, or torch's way, if None.
        seed: of the order and of the random augmentation of a Dataset; None keeps its order.

    Raises:
        ConfigError: for something that is no source of batches, or ``batch_size`` with ready-made batches.
    """
    if isinstance(source, Dataset):
        return _loader(source, batch_size or BATCH_SIZE, collate or getattr(source, "collate", None), seed)
    if isinstance(source, (str, bytes, dict)) or not isinstance(source, Iterable):
        found = type(source).__name__
        raise ConfigError(
            f"{what} must be a DataLoader, a Dataset or an iterable of batches, got {found}; "
            "texts become one by dtheta.data.batches.loader(texts, tokenizer)"
        )
    if what == "train" and (batch_size is not None or collate is not None):
        raise ConfigError("batch_size and collate go with a Dataset; this training data comes in batches already")
    return source


def _loader(dataset: Any, batch_size: int, collate: Any, seed: int | None) -> DataLoader[Any]:
    order = None
    if seed is not None and not isinstance(dataset, IterableDataset):
        from dtheta.data.batches import KeyedOrder

        order = KeyedOrder(len(dataset), seed)
        if type(dataset) is not TensorDataset:  # whose items draw nothing
            dataset = KeyedItems(dataset, seed)
    return DataLoader(dataset, batch_size, sampler=order, collate_fn=collate)


class Stream:
    """Training batches, epoch after epoch.

    Attributes:
        epoch: epochs begun before this one.
        taken: batches taken of this epoch.
    """

    def __init__(self, batches: Iterable[Batch], seed: int, trailed: bool = False) -> None:
        """Stand before the first batch of epoch 0; ``trailed`` takes a digest of every batch, as ``position`` needs."""
        self.batches = batches
        self.seed = seed
        self.epoch = 0
        self.taken = 0
        self.once = isinstance(batches, Iterator)
        self._generators = [(g, g.get_state(), g.initial_seed()) for g in _generators(batches)]
        self._iterator: Iterator[Batch] | None = None
        self._trail = Trail() if trailed else None

    def next(self) -> Batch:
        """Return the next batch; the epoch after the last one follows by itself.

        Raises:
            ConfigError: there is no batch at all, or an iterator that cannot start again is at its end.
        """
        found, batch = self._fetch()
        if not found:
            self._end_epoch()
            found, batch = self._fetch()
        if not found:
            raise ConfigError(f"the training data has no batch (epoch {self.epoch}): it is empty")
        self._note(batch)
        return batch

    def _note(self, batch: Batch) -> None:
        self.taken += 1
        if self._trail is not None:
            self._trail.add(batch)

    def _fetch(self) -> tuple[bool, Batch]:
        seed_all(key(self.seed, f"fit/data/{self.epoch}", self.taken))
        if self._iterator is None:
            self._begin_epoch()
            self._iterator = iter(self.batches)
        try:
            return True, next(self._iterator)
        except StopIteration:
            return False, None

    def _begin_epoch(self) -> None:
        for generator, _, own in self._generators:
            generator.manual_seed(key(self.seed, f"fit/order/{own}", self.epoch))
        for holder in _holders(self.batches):
            if callable(getattr(holder, "set_epoch", None)):
                holder.set_epoch(self.epoch)

    def _end_epoch(self) -> None:
        if self.taken == 0:
            raise ConfigError(f"the training data has no batch (epoch {self.epoch}): it is empty")
        if self.once:
            raise ConfigError(
                f"the training data ended after {self.taken} batches, before all steps were done, and an iterator "
                "cannot start again; give a DataLoader or a list, fewer steps, or an iterator over more epochs"
            )
        self.epoch, self.taken, self._iterator = self.epoch + 1, 0, None
        self._trail = None if self._trail is None else Trail()

    def position(self) -> dict[str, Any]:
        """Return where the stream stands, and digests of the batches that it gave of this epoch."""
        assert self._trail is not None, "only a stream that was made with trailed=True has a position"
        return {"epoch": self.epoch, "taken": self.taken, **self._trail.state()}

    def seek(self, position: dict[str, Any]) -> None:
        """Go where a stream stood when ``position`` was called, and compare all that is read on the way.

        That are the batches of the interrupted epoch up to the position: each must be what it was. Not compared, since
        they are not read again, are the epochs before it; nor the batches that the run had not seen yet.

        Raises:
            ConfigError: the data is not what it was.
        """
        self.epoch, self._trail = position["epoch"], Trail()
        for _ in range(position["taken"]):
            found, batch = self._fetch()
            if not found:
                raise ConfigError(f"resume: an epoch had {position['taken']} batches at least, now it has {self.taken}")
            self._note(batch)
        odd = self._trail.difference(position)
        if odd is not None:
            which = f"batch {odd[0]}" if odd[0] == odd[1] else f"one of the batches {odd[0]} to {odd[1]}"
            raise ConfigError(
                f"resume: {which} of epoch {self.epoch} is not the one that the run had there; the training data, its "
                "order or its batch size changed. Give the same data, or start anew in another folder"
            )

    def close(self) -> None:
        """Put the generators of the loader back as the caller had them."""
        self._iterator = None
        for generator, state, _ in self._generators:
            generator.set_state(state)


def _holders(batches: Any) -> list[Any]:
    """Return the parts of a loader that may shuffle."""
    found = [batches]
    for name in ("sampler", "batch_sampler", "dataset"):
        found.append(getattr(batches, name, None))
    found.append(getattr(found[2], "sampler", None))
    return [part for i, part in enumerate(found) if part is not None and all(part is not p for p in found[:i])]


def _generators(batches: Any) -> list[torch.Generator]:
    held = [getattr(part, "generator", None) for part in _holders(batches)]
    return list({id(g): g for g in held if isinstance(g, torch.Generator)}.values())
