"""``load_images``: a task of one's own pictures, from folders of classes or tables of paths and labels.

Held out are a fifth of the distinct pictures of each class, so that a small class is tested on too. A picture that is
on both sides, or in two classes, is refused: it would be counted as known, or could not be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dtheta.core.paths import expanded
from dtheta.data.image_files import read_image_folder, read_image_table
from dtheta.data.images import Images, ImageTask, contents, draw, split_images
from dtheta.errors import ConfigError, FormatError, did_you_mean

Read = tuple[Images, tuple[str, ...]]


@dataclass(frozen=True)
class Table:
    """How a table of pictures is read: columns of paths and of labels, and its encoding."""

    image: str = "path"
    label: str = "label"
    encoding: str = "utf-8"


def load_images(
    path: str | Path,
    size: int,
    table: Table | None = None,
    test: str | Path | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
) -> ImageTask:
    """Return a task made of one's own pictures.

    Args:
        path: a folder that holds a folder for each class, or a table (``.csv``, ``.tsv``, ``.jsonl``).
        size: pixels a side at which they are kept; of each picture the middle square.
        table: how tables are read.
        test: a second folder or table to test on; None holds out a fifth of each class.
        n_train: how many pictures to train on, None for all.
        n_test: how many to test on, None for all that are held out.
        seed: decides which pictures are held out or drawn, and their order.

    Raises:
        ConfigError: no such file, folder or column, or more pictures wanted than there are.
        FormatError: a damaged picture, an empty label, fewer than two classes, a class in ``test`` that ``path`` has
            not, or one picture twice where that cannot be. The message names the picture, the line or the class.
        MissingExtra: Pillow is not installed.
    """
    path, how = expanded(path), table or Table()
    images, classes = _read(path, size, how)
    _require_one_class_each(images, classes, path)
    if test is None:
        train, held_out = _split(images, classes, seed, path.stem)
    else:
        other = expanded(test)
        train, held_out = images, _known(*_read(other, size, how), classes, other)
        _require_apart(train, held_out, path, other)
    return ImageTask(
        name=path.stem,
        classes=classes,
        train=draw(train, n_train, seed, f"{path.stem}/train", "n_train"),
        test=draw(held_out, n_test, seed, f"{path.stem}/test", "n_test"),
        license="the user's own data",
        source=path.name,
    )


def _read(path: Path, size: int, table: Table) -> Read:
    if path.is_dir():
        return read_image_folder(path, size)
    return read_image_table(path, size, table.image, table.label, table.encoding)


def _require_one_class_each(images: Images, classes: Sequence[str], path: Path) -> None:
    known: dict[bytes, int] = {}
    for content, label in zip(contents(images.images), images.labels.tolist(), strict=True):
        if known.setdefault(content, label) != label:
            raise FormatError(
                f"{path.name}: one picture is in the classes {classes[known[content]]!r} and {classes[label]!r}; take "
                "it out of one of them"
            )


def _split(images: Images, classes: Sequence[str], seed: int, name: str) -> tuple[Images, Images]:
    parts = []
    for label, called in enumerate(classes):
        ours = images.take((images.labels == label).nonzero().flatten())
        try:
            parts.append(split_images(ours, None, seed, f"{name}/{called}"))
        except FormatError:
            raise FormatError(
                f"{name}: the class {called!r} has a single picture, so none is left to test on; add some, or give a "
                "folder or table to test on (test)"
            ) from None
    train, held_out = zip(*parts, strict=True)
    return _joined(train), _joined(held_out)


def _joined(parts: Sequence[Images]) -> Images:
    return Images(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _known(images: Images, found: Sequence[str], classes: Sequence[str], path: Path) -> Images:
    """Return images with the ids of the training classes."""
    for name in found:
        if name not in classes:
            raise FormatError(
                f"{path.name}: the class {name!r} has no pictures to train on; known are {', '.join(classes[:8])}"
                f"{', ...' if len(classes) > 8 else ''}{did_you_mean(name, classes)}"
            )
    ids = torch.tensor([classes.index(name) for name in found])
    return Images(images.images, ids[images.labels])


def _require_apart(train: Images, test: Images, path: Path, other: Path) -> None:
    both = len(set(contents(train.images)) & set(contents(test.images)))
    if both:
        raise ConfigError(
            f"{both} of the pictures in {other.name} are in {path.name} too; what is trained on cannot be tested on"
        )
