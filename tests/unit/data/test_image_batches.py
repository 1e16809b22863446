"""Batches of images: keyed, whatever the batch size and the number of workers, and what ``fit`` takes."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.data.image_batches import ImageItems, image_loader
from dtheta.data.images import Images
from dtheta.data.pixels import Pixels
from dtheta.errors import ConfigError
from dtheta.fit.stream import Stream

PIXELS = Pixels(6, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def images():
    """13 images whose labels are their places."""
    return Images(
        torch.randint(0, 256, (13, 9, 9, 3), dtype=torch.uint8, generator=generator(0, "i")), torch.arange(13)
    )


def _by_label(batches):
    """The pixels of each image of some batches."""
    return {
        int(label): pixels
        for batch in batches
        for label, pixels in zip(batch["labels"], batch["pixel_values"], strict=True)
    }


def _epochs(loader, count):
    """``count`` epochs as ``fit`` reads them."""
    stream = Stream(loader, seed=5)
    return [_by_label([stream.next() for _ in range(len(loader))]) for _ in range(count)]


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[label], second[label]) for label in first)


def test_a_batch_holds_pixels_and_labels(images):
    batch = next(iter(image_loader(images, PIXELS, 4)))
    assert batch["pixel_values"].shape == (4, 3, 6, 6) and batch["pixel_values"].dtype == torch.float32
    assert torch.equal(batch["pixel_values"], PIXELS(images.images[batch["labels"]]))


def test_unshuffled_keeps_the_order(images):
    loader = image_loader(images, PIXELS, 5, shuffle=False)
    assert torch.cat([batch["labels"] for batch in loader]).tolist() == list(range(13))


def test_augmented_images_depend_on_neither_batch_size_nor_workers(images):
    plain, small = (_epochs(image_loader(images, PIXELS, size, seed=3, augment=True), 2) for size in (13, 4))
    workers = _epochs(image_loader(images, PIXELS, 4, seed=3, augment=True, workers=2), 2)
    for epoch in range(2):
        assert _same(plain[epoch], small[epoch])
        assert _same(plain[epoch], workers[epoch])


def test_each_epoch_and_seed_draws_anew(images):
    first, second = _epochs(image_loader(images, PIXELS, 4, seed=3, augment=True), 2)
    (other,) = _epochs(image_loader(images, PIXELS, 4, seed=4, augment=True), 1)
    assert not any(torch.equal(first[label], second[label]) for label in first)
    assert not any(torch.equal(first[label], other[label]) for label in first)


def test_items_are_keyed_by_place_and_epoch_only(images):
    items = ImageItems(images, PIXELS, seed=3, augment=True)
    first = items[7]["pixel_values"]
    items[2]
    torch.rand(3)
    assert torch.equal(items[7]["pixel_values"], first)
    items.set_epoch(1)
    assert not torch.equal(items[7]["pixel_values"], first)


def test_loaders_that_cannot_be_meant(images):
    with pytest.raises(ConfigError, match="batch_size"):
        image_loader(images, PIXELS, 0)
    with pytest.raises(ConfigError, match="no image"):
        image_loader(images.take(torch.tensor([], dtype=torch.int64)), PIXELS)
    with pytest.raises(ConfigError, match="scale="):
        image_loader(images, PIXELS, augment=True, scale=(0.0, 1.0))
