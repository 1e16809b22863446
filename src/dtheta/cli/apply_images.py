"""``dtheta apply --image``: the likeliest classes of pictures, by an image-text model with a delta on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.console import Console, Part, Table
from dtheta.cli.networks import base_name
from dtheta.cli.places import require_input
from dtheta.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from torch import Tensor

    from dtheta.cli.apply import Options
    from dtheta.data.pixels import Pixels
    from dtheta.models.image_text import ImageTextClassifier

_BATCH = 64
_LEFT_OUT = 3  # files named in a note


def predictions(options: Options, console: Console) -> list[dict[str, Any]]:
    """Return, for every picture, its likeliest class and the probabilities of all, likeliest first.

    Raises:
        ConfigError: If the delta is of no image classifier, or there is no picture.
        FormatError: If a picture is damaged, naming it.
        NonFinite: If the network gives no numbers.
    """
    files = pictures(options.image, console)
    rows = []
    with _network(options) as (net, pixels, moved_texts):
        for start in range(0, len(files), _BATCH):
            part = files[start : start + _BATCH]
            rows += _rows(net.classes, part, _logits(net, pixels, part, moved_texts))
    return rows


def table(rows: Sequence[Mapping[str, Any]], top: int) -> Part:
    """Return the likeliest classes of every picture."""
    cells = []
    for row in rows:
        for place, (name, share) in enumerate(list(row["probabilities"].items())[:top]):
            cells.append(("" if place else row["image"], name, f"{100 * share:.1f} %"))
    return Table(("picture", "class", "probability>"), cells)


def pictures(given: Sequence[Path], console: Console) -> list[Path]:
    """Return the picture files that are meant: a folder stands for the pictures in it, by their suffix, in order.

    Raises:
        ConfigError: If there is no such file or folder, or no picture in a folder.
    """
    from dtheta.data.decode import FORMATS

    found: list[Path] = []
    for path in map(require_input, given):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        chosen = [file for file in inside if file.suffix.lower() in FORMATS]
        if not chosen:
            deeper = "; it holds folders: give those" if any(file.is_dir() for file in inside) else ""
            raise ConfigError(
                f"the folder {path} holds no picture{deeper}; known by their suffix are {', '.join(FORMATS)}"
            )
        if others := [file.name for file in inside if file not in chosen]:
            more = ", ..." if len(others) > _LEFT_OUT else ""
            console.note(f"{path}: passed over what is no picture: {', '.join(others[:_LEFT_OUT])}{more}")
        found += chosen
    return found


@contextmanager
def _network(options: Options) -> Iterator[tuple[ImageTextClassifier, Pixels, bool]]:
    """Yield the classifier with the delta on it, what it sees, and whether every image has texts of its own."""
    from dtheta.adapt.attach import attach
    from dtheta.adapt.prompts.cocoop import CoCoOp
    from dtheta.core.apply import applied
    from dtheta.core.files import load

    path = require_input(options.delta)
    if path.is_dir():
        task = merged_task(path)
        yield _classifier(str(path), task, path), _pixels(task, path), False
        return
    delta = load(path)
    task = delta.provenance.task
    require_image_task(task, path)
    net, pixels = _classifier(base_name(task, options.model), task, path), _pixels(task, path)
    if not delta.new:
        with applied(net.model, delta if options.weight == 1.0 else options.weight * delta):
            yield net, pixels, False
        return
    adapter = attach(net, delta, weight=options.weight)
    try:
        yield net, pixels, isinstance(adapter.method, CoCoOp)
    finally:
        adapter.detach()


def merged_task(folder: Path) -> dict[str, Any]:
    """Return the task of a folder that 'dtheta merge' wrote from an image classifier's delta.

    Raises:
        ConfigError: If the folder names none.
        FormatError: If its record is damaged.
    """
    from dtheta.cli.merge import RECORD
    from dtheta.core.jsonfile import read_json

    file = folder / RECORD
    record = read_json(file) if file.is_file() else {}
    task = record.get("task") if isinstance(record, dict) else None
    require_image_task(task if isinstance(task, dict) else {}, folder)
    assert isinstance(task, dict)
    return task


def require_image_task(task: Mapping[str, Any], path: Path) -> None:
    """Raise unless a delta is of an image classifier.

    Raises:
        ConfigError: Naming the file.
    """
    from dtheta.adapt.few_shot import IMAGE_TEXT

    if task.get("kind") != IMAGE_TEXT:
        raise ConfigError(
            f"{path}: this is of no image classifier, so it cannot say what is in a picture; it is of "
            f"{task.get('kind') or 'no task that is named'}"
        )


def _classifier(model: str, task: Mapping[str, Any], path: Path) -> ImageTextClassifier:
    from dtheta.models.image_text import image_text_classifier
    from dtheta.models.load import load_model, load_tokenizer

    for name in ("classes", "templates"):
        found = task.get(name)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise FormatError(f"{path}: it does not name its {name}; it was edited")
    return image_text_classifier(load_model(model), load_tokenizer(model), task["classes"], task["templates"])


def _pixels(task: Mapping[str, Any], path: Path) -> Pixels:
    from dtheta.data.pixels import Pixels

    try:
        said = dict(task["pixels"])
        (r, g, b), (dr, dg, db) = (map(float, said[name]) for name in ("mean", "std"))
        return Pixels(int(said["size"]), (r, g, b), (dr, dg, db))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise FormatError(f"{path}: it does not say what its images look like; it was edited") from error


def _logits(net: ImageTextClassifier, pixels: Pixels, files: Sequence[Path], moved_texts: bool) -> Tensor:
    import torch

    from dtheta.adapt.image_problem import FrozenImages
    from dtheta.cli.apply_texts import require_finite
    from dtheta.data.decode import read_square
    from dtheta.data.images import Images

    read = torch.stack([read_square(path, pixels.size) for path in files])
    part = FrozenImages(net, pixels, Images(read, torch.zeros(len(files), dtype=torch.int64)))
    with nullcontext() if moved_texts else net.frozen_text():
        logits = part.logits(moved=True)
    require_finite(logits)
    return logits


def _rows(classes: Sequence[str], files: Sequence[Path], logits: Tensor) -> list[dict[str, Any]]:
    rows = []
    for path, shares in zip(files, logits.softmax(1).tolist(), strict=True):
        ranked = sorted(zip(classes, shares, strict=True), key=lambda pair: -pair[1])
        (label, share), each = ranked[0], dict(ranked)
        rows.append({"image": str(path), "label": label, "probability": share, "probabilities": each})
    return rows
