"""Images: Fashion-MNIST, and a reader for the IDX format that it comes in.

    IDX = 0 0 type rank, rank big-endian 32-bit sizes, then the elements in C order

What the header says is checked against the length of the data, and no more is unpacked than it says.
Source: LeCun, Cortes and Burges's description of the MNIST files; Xiao, Rasul and Vollgraf 2017 (arXiv 1708.07747).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dtheta.data.sources import FASHION_MNIST, fetch
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, FormatError

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 1 << 30  # far above MNIST's 47 MB: no header makes us unpack more

FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Images:
    """Images ``(N, height, width)`` of bytes, 0 to 255, and class ids ``(N,)``, in step."""

    images: UInt8[Tensor, "N H W"]
    labels: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageTask:
    """An image classification task; the fields mean what they mean in ``TextTask``."""

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    license: str
    source: str


def load_fashion_mnist(n_train: int | None = None, n_test: int | None = None, seed: int = 0) -> ImageTask:
    """Return Fashion-MNIST, 28 x 28, ten classes; 60000 images to train on and 10000 to test on.

    Args:
        n_train: how many training images, None for all.
        n_test: how many test images, None for all.
        seed: decides which images, and their order.

    Raises:
        ConfigError: more images wanted than there are.
        MissingExtra: the Debian package cannot be had on this machine.
    """
    folder = fetch(FASHION_MNIST.name)
    return ImageTask(
        name="fashion-mnist",
        classes=FASHION_CLASSES,
        train=_draw(_read_images(folder, "train"), n_train, seed, "n_train"),
        test=_draw(_read_images(folder, "t10k"), n_test, seed, "n_test"),
        license=FASHION_MNIST.license,
        source=f"{FASHION_MNIST.name} {FASHION_MNIST.version}",
    )


def read_idx(path: Path) -> UInt8[Tensor, "*sizes"]:
    """Return the tensor of bytes in an IDX file, gzipped or not.

    Raises:
        FormatError: another element type, or a header that does not fit the data.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as handle:
            zeros, kind, rank = struct.unpack(">HBB", handle.read(4))
            if zeros or kind != _UNSIGNED_BYTE or not rank:
                raise FormatError(f"{path.name} is not an IDX file of bytes")
            sizes = struct.unpack(f">{rank}I", handle.read(4 * rank))
            content = handle.read(min(math.prod(sizes), _MAX_BYTES) + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise FormatError(f"{path.name} cannot be read as IDX: {error}") from error
    if len(content) != math.prod(sizes):
        raise FormatError(f"{path.name} says it holds {' x '.join(map(str, sizes))} bytes, which it does not")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(sizes)


def _read_images(folder: Path, part: str) -> Images:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz").long()
    if len(images) != len(labels):
        raise FormatError(f"{part}: {len(images)} images, but {len(labels)} labels")
    return Images(images, labels)


def _draw(part: Images, count: int | None, seed: int, what: str) -> Images:
    if count is not None and not 1 <= count <= len(part):
        raise ConfigError(f"{what}={count} must lie between 1 and {len(part)}, the number there is")
    order = torch.tensor(keyed_order(len(part), seed, f"fashion-mnist/{what}")[:count])
    return Images(part.images[order], part.labels[order])
