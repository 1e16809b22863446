"""What stands beside the weights of a checkpoint: the files that a merged copy takes over, and those that it must not.

index              the source's, with the bytes that the copy has
config.json        the source's, with the dtype that the copy has
tokenizer, ...     as they are; not weights in other formats, which would be stale
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dtheta.core.checkpoints import INDEX_SUFFIX, PICKLES, Checkpoint
from dtheta.core.jsonfile import read_json
from dtheta.core.output import require_space
from dtheta.errors import OutputError

CONFIG = "config.json"
# Weights in other formats would be stale beside merged ones, so they are not copied.
_OTHER_WEIGHTS = (*PICKLES, ".safetensors", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot")


def refuse_source(source: Path, out: Path) -> None:
    """Raise if a result would be written over a checkpoint or into it.

    Raises:
        OutputError: Naming the place.
    """
    source, out = source.resolve(), out.resolve()
    if out == source or source in out.parents or (out.exists() and out.samefile(source)):
        raise OutputError(f"cannot write {out}: it is the source, or inside it; the base is never written to")


def configuration(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the ``config.json`` beside the weights; empty where there is none.

    Raises:
        FormatError: If it cannot be read, or is no JSON.
    """
    path = checkpoint.path / CONFIG
    config = read_json(path) if path.is_file() else {}
    return config if isinstance(config, dict) else {}


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration makes input and output embeddings one; where it does not say, as its kind has it.

    Files leave out what is usual: GPT-2's and Gemma's do not say that they are tied.
    """
    said = config.get("tie_word_embeddings")
    return _usual_tie(str(config.get("model_type"))) if said is None else bool(said)


def _usual_tie(kind: str) -> bool:
    try:
        from transformers import CONFIG_MAPPING

        return bool(getattr(CONFIG_MAPPING[kind](), "tie_word_embeddings", False))
    except (ImportError, KeyError):
        return False


def with_dtype(config: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """Return a configuration that states a dtype, as far as it states one at all; None changes nothing."""
    name = str(dtype).removeprefix("torch.")
    return {key: name if dtype is not None and key in ("dtype", "torch_dtype") else v for key, v in config.items()}


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write the ``config.json`` of a copy."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def companions(checkpoint: Checkpoint) -> tuple[list[Path], list[str]]:
    """Return the files to copy beside the weights, and the names of those left out; nothing of a single file."""
    if checkpoint.path.is_file():
        return [], []
    files, left_out = [], []
    written = {*checkpoint.shards, checkpoint.index_name}
    for file in sorted(checkpoint.path.rglob("*")):
        inside = file.relative_to(checkpoint.path)
        if not file.is_file() or any(part.startswith(".") for part in inside.parts) or str(inside) in written:
            continue
        nested = len(inside.parts) > 1 and file.name.endswith((".safetensors", INDEX_SUFFIX))  # of another module
        if (file.suffix in _OTHER_WEIGHTS or file.name.endswith(".index.json")) and not nested:
            left_out.append(str(inside))
        else:
            files.append(file)
    return files, left_out


def require_room(checkpoint: Checkpoint, out: Path, nbytes: int, files: Iterable[Path]) -> None:
    """Raise unless there is room for a copy whose tensors have so many bytes, its headers, and files beside them.

    Raises:
        OutputError: If it does not fit on the disk.
    """
    headers = sum(8 + len(file.header) for file in checkpoint.shards.values())
    require_space(out, nbytes + headers + sum(file.stat().st_size for file in files))


def copy_companions(checkpoint: Checkpoint, files: Iterable[Path], folder: Path) -> None:
    """Copy files of a checkpoint to the same places in another folder."""
    for file in files:
        target = folder / file.relative_to(checkpoint.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def write_index(checkpoint: Checkpoint, folder: Path, nbytes: int) -> None:
    """Write the index of a copy in the same files, whose tensors have so many bytes; nothing where there is none."""
    if checkpoint.index is not None and checkpoint.index_name is not None:
        known = checkpoint.index.get("metadata", {})
        index = {**checkpoint.index, "metadata": {**known, "total_size": nbytes}}
        (folder / checkpoint.index_name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
