"""Items of a Dataset whose random augmentation depends on the seed, the epoch and the item's index alone.

    draw of item i in epoch e    from the global generators, seeded by key(seed, "fit/item/e", i)

An item then looks the same whatever batch it is in, whichever worker process fetches it, and what was fetched before.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from dtheta.core.seeds import key
from dtheta.fit.randomness import seed_all


class KeyedItems(Dataset[Any]):
    """A Dataset with each item's random draws keyed.

    ``fit`` wraps every Dataset that it makes batches of. In a DataLoader of one's own,
    ``DataLoader(KeyedItems(dataset, seed), num_workers=...)`` gives the same items for any number of workers; what a
    collate function draws there still depends on the worker that it runs in.

    Attributes:
        dataset: The Dataset of items.
        seed: Seed of the keys.
        epoch: The epoch that items are drawn for.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        """Key the items of ``dataset``, which has a length and items by index, beginning with epoch 0."""
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, here and in the Dataset if that wants to know it."""
        self.epoch = epoch
        if callable(getattr(self.dataset, "set_epoch", None)):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed_all(key(self.seed, f"fit/item/{self.epoch}", index))
        return self.dataset[index]
