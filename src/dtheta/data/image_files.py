"""Pictures of one's own: a folder per class, or a table of paths and labels.

    pictures/cat/1.jpg            path,label
    pictures/cat/2.png            cat/1.jpg,cat
    pictures/dog/1.jpg            dog/1.jpg,dog

Nothing is skipped or repaired: a file that cannot be meant stops the reading and is named. Only hidden files, and those
that file managers leave behind, are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from dtheta.core.paths import expanded
from dtheta.data.decode import FORMATS, read_square
from dtheta.data.images import Images
from dtheta.data.lines import label_field, numbered_lines, text_field
from dtheta.data.text import class_names
from dtheta.errors import ConfigError, FormatError

_LEFT_BEHIND = ("thumbs.db", "desktop.ini")  # Windows; those of others are hidden


@dataclass(frozen=True)
class _Picture:
    path: Path
    label: str


def read_image_folder(folder: str | Path, size: int) -> tuple[Images, tuple[str, ...]]:
    """Return the pictures of a folder that holds a folder for each class, and the names of the classes.

    Args:
        folder: its folders are the classes, by name; each holds pictures and nothing else.
        size: pixels a side; of each picture the middle square is kept, ``(N, size, size, 3)``, see ``read_square``.

    Raises:
        ConfigError: there is no such folder, or a file is no picture by its suffix.
        FormatError: fewer than two classes, a class without pictures, a folder in a class, a picture beside the
            classes, or one that is damaged or too large. The message names it.
        MissingExtra: Pillow is not installed.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}" + (": it is a file" if folder.exists() else ""))
    classes = [path for path in _visible(folder) if path.is_dir()]
    if not classes:
        raise FormatError(f"{folder} holds no folders; expected one for each class, with its pictures inside")
    for path in _visible(folder):
        if path.suffix.lower() in FORMATS and path not in classes:
            raise FormatError(f"{path}: this picture is in no class; move it into the folder of its class")
    pictures = [_Picture(file, path.name) for path in classes for file in _of_class(path)]
    return _read(pictures, size, str(folder))


def read_image_table(
    path: str | Path, size: int, image: str = "path", label: str = "label", encoding: str = "utf-8"
) -> tuple[Images, tuple[str, ...]]:
    """Return the pictures that a table names, in its order, and the names of the classes.

    Args:
        path: a ``.csv`` or ``.tsv`` file with a header row, or a ``.jsonl`` file of one object a line.
        size: pixels a side; of each picture the middle square is kept, ``(N, size, size, 3)``, see ``read_square``.
        image: the column of the paths, relative to the folder of the table, or absolute.
        label: the column of the classes: a string, an integer or a boolean.
        encoding: of the table; a byte-order mark is accepted.

    Raises:
        ConfigError: a table or column that is not there, or a path that leads to no picture.
        FormatError: a bad row, an empty path or label, a picture with two labels, fewer than two classes, or a picture
            that is damaged or too large. The message names the line or the picture.
        MissingExtra: Pillow is not installed.
    """
    path = expanded(path)
    pictures: list[_Picture] = []
    first: dict[Path, tuple[str, int]] = {}
    for number, fields in numbered_lines(path, encoding):
        where = f"{path.name}, line {number}"
        picture = _Picture(path.parent / text_field(fields, image, where).strip(), label_field(fields, label, where))
        _check_row(picture, where, *first.setdefault(picture.path, (picture.label, number)))
        pictures.append(picture)
    return _read(pictures, size, path.name)


def _check_row(picture: _Picture, where: str, known: str, line: int) -> None:
    if known != picture.label:
        raise FormatError(
            f"{where}: the picture {picture.path} has the label {picture.label!r} here and {known!r} in line {line}"
        )
    if not picture.path.is_file():
        raise ConfigError(f"{where}: there is no picture {picture.path}; paths are relative to the folder of the table")


def _read(pictures: list[_Picture], size: int, where: str) -> tuple[Images, tuple[str, ...]]:
    if not pictures:
        raise FormatError(f"{where} names no picture")
    classes = class_names(picture.label for picture in pictures)
    if len(classes) == 1:
        only = pictures[0].label
        raise FormatError(f"{where}: every picture is of the class {only!r}; a task needs at least two classes")
    ids = {name: index for index, name in enumerate(classes)}
    images = torch.stack([read_square(picture.path, size) for picture in pictures])
    return Images(images, torch.tensor([ids[picture.label] for picture in pictures])), classes


def _of_class(folder: Path) -> Iterable[Path]:
    files = _visible(folder)
    if not files:
        raise FormatError(f"{folder}: this class has no pictures; add some, or remove the folder")
    for path in files:
        if path.is_dir():
            raise FormatError(
                f"{path}: a folder in the folder of the class {folder.name!r}, where only pictures are expected. If "
                f"{folder.name!r} is no class but a part of the data (train, test), give its folder instead"
            )
    return files


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, in order of names."""
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in found if path.name.lower() not in _LEFT_BEHIND)
