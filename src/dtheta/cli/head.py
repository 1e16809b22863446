"""A classifier's head in a merged folder: two files beside the encoder's own.

    classifier.json          classes, pooling, max_length, the model and data it was made from
    classifier.safetensors   weight (C, E) and bias (C,)

Transformers loads such a folder as the plain encoder, merged; ``dtheta apply FOLDER`` loads the head as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.errors import FormatError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dtheta.core.delta import Delta

_TASK, WEIGHTS = "classifier.json", "classifier.safetensors"
_FIELDS = ("kind", "model", "data", "classes", "pooling", "max_length")


def write_head(folder: Path, delta: Delta) -> None:
    """Write the head that a classifier's delta holds; it is relative to zeros, so its change is the head itself.

    Raises:
        OutputError: If it cannot be written.
    """
    from dtheta.core.jsonfile import write_json
    from dtheta.core.output import write_file
    from dtheta.core.tensorfile import data_of, write_tensors

    tensors = {name.removeprefix("head."): delta[name].dense() for name in delta if name.startswith("head.")}
    task = {name: delta.provenance.task.get(name) for name in _FIELDS}
    write_json(task, folder / _TASK, indent=2)
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with write_file(folder / WEIGHTS) as handle:
        write_tensors(handle, specs, {"format": "pt"}, lambda name: [data_of(tensors[name])])


def load_merged(folder: Path) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return a merged network, its tokenizer and its task: a classifier where the folder holds a head.

    Raises:
        FormatError: If head and task do not fit the encoder.
        ConfigError, FormatError: As ``load_model``.
    """
    import torch

    from dtheta.models.classifier import classifier
    from dtheta.models.load import load_model, load_tokenizer

    task = task_in(folder)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    if not task:
        return model, tokenizer, task
    net = classifier(model, task["classes"], task.get("pooling"))
    head = _tensors(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in net.head.named_parameters():
            if name not in head or head[name].shape != parameter.shape:
                raise FormatError(
                    f"{folder / WEIGHTS}: the head's {name} is missing or does not fit {tuple(parameter.shape)}"
                )
            parameter.copy_(head[name])
    return net, tokenizer, task


def task_in(folder: Path) -> dict[str, Any]:
    """Return the task of a merged folder, empty where it holds no head.

    Raises:
        FormatError: If it names no classes.
    """
    from dtheta.core.jsonfile import read_json

    path = folder / _TASK
    if not path.is_file():
        return {}
    task = read_json(path)
    classes = task.get("classes") if isinstance(task, dict) else None
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise FormatError(f"{path} names no classes; merge the delta again")
    return task


def _tensors(path: Path) -> dict[str, Tensor]:
    from dtheta.core.tensorfile import open_tensors

    file = open_tensors(path)
    return {name: file.read(name) for name in file.entries}
