"""Images to batches: pixels and labels, in an order that is a pure function of (seed, epoch).

A batch is ``{"pixel_values": (B, 3, S, S) float32, "labels": (B,) int64}``. The order is that of ``batches``; the
random rectangle of image i in epoch e is drawn from ``generator(seed, "augment/e", i)``. So neither the batch size, nor
the number of workers, nor what ran before can change an image, and a resumed run goes on with the same ones.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dtheta.core.seeds import generator
from dtheta.data.batches import Batch, KeyedOrder
from dtheta.data.images import Images
from dtheta.data.pixels import SCALE, Pixels, augmented, check_scale
from dtheta.errors import ConfigError


class ImageItems(Dataset[dict[str, Tensor]]):
    """Images as pixels; item i is ``{"pixel_values": (3, S, S), "labels": ()}``. ``set_epoch`` chooses the epoch."""

    def __init__(
        self,
        images: Images,
        pixels: Pixels,
        seed: int = 0,
        augment: bool = False,
        scale: tuple[float, float] = SCALE,
        flip: bool = True,
    ) -> None:
        """Give ``images`` as ``pixels``, each item drawn anew each epoch if ``augment``; see ``image_loader``."""
        check_scale(scale)
        self.images = images
        self.pixels = pixels
        self.seed = seed
        self.augment = augment
        self.scale = scale
        self.flip = flip
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random rectangles come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self.images.images[index][None]
        if self.augment:
            draws = generator(self.seed, f"augment/{self.epoch}", index)
            values = augmented(image, self.pixels, draws, self.scale, self.flip)
        else:
            values = self.pixels(image)
        return {"pixel_values": values[0], "labels": self.images.labels[index]}


def image_loader(
    images: Images,
    pixels: Pixels,
    batch_size: int = 32,
    seed: int = 0,
    augment: bool = False,
    shuffle: bool = True,
    scale: tuple[float, float] = SCALE,
    flip: bool = True,
    workers: int = 0,
) -> DataLoader[Batch]:
    """Return a DataLoader over the images, as ``fit`` takes it; the last batch of an epoch may be smaller.

    Args:
        images: what to iterate over.
        pixels: what the model wants to see.
        batch_size: images a batch.
        seed: of the order and the random rectangles; ``fit`` sets the epoch, a loop of one's own sets it by
            ``loader.sampler.set_epoch(e)`` and ``loader.dataset.set_epoch(e)``.
        augment: True trains on random rectangles, see ``pixels.augmented``.
        shuffle: False keeps the order of ``images``, as evaluation wants it.
        scale: least and largest share of the area that a random rectangle covers.
        flip: False never mirrors, for images in which left and right differ in meaning.
        workers: processes that prepare batches; 0 does it in this one.

    Raises:
        ConfigError: a batch size below 1, no image, or a scale that cannot be meant.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if not len(images):
        raise ConfigError("there is no image to make batches of")
    items = ImageItems(images, pixels, seed, augment, scale, flip)
    return DataLoader(
        items,
        batch_size=batch_size,
        sampler=KeyedOrder(len(items), seed) if shuffle else None,
        num_workers=workers,
        generator=generator(seed, "loader"),  # else every pass would draw from torch's global generator
    )
