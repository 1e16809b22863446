"""Labeled images, a task made of them, and splits that depend on the seed and on nothing else.

A split orders the distinct images by ``key(seed, "split/" + name, index)`` and cuts: the first are the test set. So a
larger training set never changes the test set, and one image never lies on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xxhash
from jaxtyping import Int64, UInt8
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.data.text import held_out_of, keyed_order
from dtheta.errors import ConfigError, FormatError

WHITE = 255


@dataclass(frozen=True)
class Images:
    """Images of bytes, 0 to 255, grey ``(N, H, W)`` or RGB ``(N, H, W, 3)``, and class ids ``(N,)``, in step."""

    images: UInt8[Tensor, "N H W *rgb"]
    labels: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, order: Int64[Tensor, " M"]) -> Images:
        """Return the images at the places ``order``, in that order."""
        return Images(self.images[order], self.labels[order])


@dataclass(frozen=True)
class ImageTask:
    """An image classification task.

    Attributes:
        name: the task's name.
        classes: class names as they stand in a prompt; a label is an index into them.
        train: what to learn from.
        test: what to measure on; shares no image with ``train``.
        license: what is known of the rights in the images.
        source: where they come from.
        template: the prompt of a class, with ``{}`` for its name.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    license: str
    source: str
    template: str = "a photo of a {}."


def split_images(images: Images, n_test: int | None, seed: int, name: str) -> tuple[Images, Images]:
    """Return ``(train, test)``: ``n_test`` distinct images (None: a fifth) and their copies are the test set.

    Raises:
        ConfigError: nothing would be left to train on, or to test on.
        FormatError: there are fewer than two different images.
    """
    found = contents(images.images)
    distinct = list(dict.fromkeys(found))
    if len(distinct) < 2:
        raise FormatError(f"{name}: {len(distinct)} different images among {len(images)}; a split needs two")
    count = held_out_of(len(distinct), n_test, name)
    place = {distinct[index]: rank for rank, index in enumerate(keyed_order(len(distinct), seed, f"split/{name}"))}
    ranks = torch.tensor([place[content] for content in found])
    order = ranks.argsort(stable=True)
    held_out = ranks[order] < count
    return images.take(order[~held_out]), images.take(order[held_out])


def contents(images: UInt8[Tensor, "N H *more"]) -> list[bytes]:
    """Return a digest of each image of bytes; two are the same where two images are."""
    return [xxhash.xxh3_128_digest(image.contiguous().numpy().data) for image in images]


def draw(images: Images, count: int | None, seed: int, name: str, what: str) -> Images:
    """Return ``count`` images (None: all) in an order keyed by ``(seed, name)``; ``what`` names the argument.

    Raises:
        ConfigError: there are fewer.
    """
    if count is not None and not 1 <= whole(count, what) <= len(images):
        raise ConfigError(f"{what}={count} must lie between 1 and {len(images)}, the number there is")
    return images.take(torch.tensor(keyed_order(len(images), seed, name)[:count]))


def on_white(rgba: UInt8[Tensor, "*N H W 4"]) -> UInt8[Tensor, "*N H W 3"]:
    """Return images with transparency laid on white; colors are not premultiplied."""
    color, alpha = rgba[..., :3].int(), rgba[..., 3:].int()
    mixed = color * alpha + WHITE * (WHITE - alpha)
    return ((mixed + WHITE // 2) // WHITE).to(torch.uint8)
