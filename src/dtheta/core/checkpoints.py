"""Checkpoints on disk: read one tensor at a time, and merged with a delta one tensor at a time.

    FOLDER/model.safetensors                 one file, or
    FOLDER/model.safetensors.index.json      {"weight_map": {tensor: shard}} and the shards beside it

A merged copy keeps the layout: the same shards, the same tensors in the same order, the configuration and tokenizer
files. No more than one tensor is in memory at a time, so a model larger than memory can be merged.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.core.apply import Rounding, bound, check_base
from dtheta.core.delta import Delta
from dtheta.core.displace import displaced_with_error
from dtheta.core.fingerprint import tensor_digest
from dtheta.core.output import require_space, write_file, write_folder
from dtheta.core.tensorfile import (
    MAX_HEADER,
    Entry,
    TensorFile,
    data_of,
    existing,
    open_tensors,
    parse_json,
    write_tensors,
)
from dtheta.errors import ConfigError, FormatError, OutputError, UnknownParameter, UnsupportedLayer, did_you_mean

Progress = Callable[[str, int, int], None]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Weights in other formats would be stale beside merged ones, so they are not copied.
_OTHER_WEIGHTS = (*_PICKLES, ".safetensors", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot")


class Checkpoint(Mapping[str, Tensor]):
    """Tensors by name, read when asked for and never kept; made by ``open_checkpoint``.

    Attributes:
        path: The folder, or the one file.
        shards: The checked header of each file, by file name.
        index: The JSON index of a sharded checkpoint.
    """

    def __init__(self, path: Path, shards: Mapping[str, TensorFile], index: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.shards = shards
        self.index = index
        self._shard_of = {name: shard for shard, file in shards.items() for name in file.entries}

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            UnknownParameter: If there is none of that name.
            FormatError: If the file cannot be read any more.
        """
        return self._file(name).read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shard_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)

    def __repr__(self) -> str:
        return f"Checkpoint({self.path}: {len(self)} tensors in {len(self.shards)} files, {self.nbytes:,} bytes)"

    def get(self, name: str, default: Any = None) -> Any:
        """Return one tensor, or ``default`` if there is none of that name."""
        return self[name] if name in self else default

    def info(self, name: str) -> Entry:
        """Return dtype, shape and size of a tensor without reading it.

        Raises:
            UnknownParameter: If there is none of that name.
        """
        return self._file(name).entries[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.info(name).nbytes for name in self)

    def _file(self, name: str) -> TensorFile:
        if name not in self._shard_of:
            raise UnknownParameter(f"{self.path} has no tensor {name!r}{did_you_mean(name, self)}")
        return self.shards[self._shard_of[name]]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: a safetensors file, a Hugging Face folder, or the index of a sharded one.

    Headers are read and checked, tensors are not.

    Raises:
        ConfigError: If there is nothing at ``path``.
        FormatError: If the checkpoint is damaged, incomplete, or of a kind that is not read (pickles, deltas).
    """
    path = existing(path)
    if path.is_dir():
        return _open_folder(path)
    if path.name.endswith(".index.json"):
        return _open_sharded(path)
    if path.suffix in _PICKLES:
        raise FormatError(f"{path} {_PICKLE}")
    return _open_single(path, path)


_PICKLE = (
    "is a pickle, which can run code when it is opened; dtheta reads safetensors only. Convert it where you trust it: "
    "load the model there and call save_pretrained(folder), which writes safetensors"
)


def _open_folder(folder: Path) -> Checkpoint:
    names = sorted(p.name for p in folder.iterdir())
    indices = [name for name in names if name.endswith(".safetensors.index.json")]
    singles = [name for name in names if name.endswith(".safetensors")]
    if SINGLE in singles and INDEX in indices:
        raise FormatError(f"{folder} has both {SINGLE} and {INDEX}; give the path of the one that is the model")
    if SINGLE in singles:
        return _open_single(folder / SINGLE, folder)
    if INDEX in indices or len(indices) == 1:
        return _open_sharded(folder / (INDEX if INDEX in indices else indices[0]))
    if "adapter_config.json" in names:
        raise FormatError(f"{folder} is a peft adapter, not a full checkpoint; dt.from_peft(folder, model) reads it")
    if len(singles) == 1:
        return _open_single(folder / singles[0], folder)
    if singles:
        raise FormatError(f"{folder} has {len(singles)} safetensors files and no index; give the path of one of them")
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise FormatError(f"{folder / pickles[0]} {_PICKLE}")
    raise FormatError(f"{folder} holds no checkpoint: expected {SINGLE}, or {INDEX} with its shards")


def _open_single(path: Path, shown: Path) -> Checkpoint:
    file = open_tensors(path)
    if "dtheta" in file.metadata:
        raise FormatError(f"{path} is a .delta file, not a checkpoint; dt.load(path) reads it")
    return Checkpoint(shown, {path.name: file})


def _open_sharded(path: Path) -> Checkpoint:
    index = _read_index(path)
    weight_map: Mapping[str, str] = index["weight_map"]
    shards = {}
    for shard in dict.fromkeys(weight_map.values()):
        if not (path.parent / shard).is_file():
            near = did_you_mean(shard, [p.name for p in path.parent.glob("*.safetensors")])
            raise FormatError(f"{path}: shard {shard!r} is missing{near}; the download may be incomplete")
        shards[shard] = open_tensors(path.parent / shard)
    for name, shard in weight_map.items():
        if name not in shards[shard].entries:
            raise FormatError(f"{path}: {shard!r} should hold {name!r} and does not; the files do not belong together")
    for shard, file in shards.items():
        for name in file.entries:
            if weight_map.get(name) != shard:
                raise FormatError(f"{path}: {shard!r} holds {name!r}, which the index does not place there")
    return Checkpoint(path.parent, shards, index)


def _read_index(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_HEADER:
        raise FormatError(f"{path}: the index has {path.stat().st_size:,} bytes; it is damaged or none")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None
    index = parse_json(text, f"{path}: the index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(index.get("metadata", {}), dict):
        raise FormatError(f"{path}: the index has no table 'weight_map' from tensors to files")
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and shard == Path(shard).name and "\\" not in shard and "\0" not in shard
        if not plain or not shard.endswith(".safetensors"):
            raise FormatError(
                f"{path}: the index places {name[:100]!r} in {shard!r:.100}, which is no safetensors file of its folder"
            )
    return index


@dataclass(frozen=True)
class Merged:
    """What a merge of a checkpoint did.

    Attributes:
        path: The merged checkpoint.
        changed: Names of the tensors that changed.
        rounding: What rounding to the stored dtype did to the delta.
        nbytes: Bytes written.
        left_out: Files of the source that were not copied: weights in formats that would be stale.
    """

    path: Path
    changed: tuple[str, ...]
    rounding: Rounding
    nbytes: int
    left_out: tuple[str, ...] = ()


@dataclass
class _Merge:
    """A merge under way."""

    source: Checkpoint
    delta: Delta
    change_of: Mapping[str, str]
    dtype: torch.dtype | None
    progress: Progress | None
    total: int
    done: int = 0
    written: int = 0
    relative: dict[str, float] = field(default_factory=dict)

    def target(self, entry: Entry) -> torch.dtype:
        """Return the dtype in which a tensor is written."""
        return self.dtype if self.dtype is not None and entry.dtype.is_floating_point else entry.dtype

    def size(self, entry: Entry) -> int:
        """Return the bytes that a tensor takes in the merged checkpoint."""
        return entry.nbytes // entry.dtype.itemsize * self.target(entry).itemsize

    def write(self, file: TensorFile, path: Path) -> None:
        """Write one file of the merged checkpoint."""
        specs = {name: (self.target(entry), entry.shape) for name, entry in file.entries.items()}
        with write_file(path) as handle:
            self.written += write_tensors(handle, specs, file.metadata, lambda name: self._data(file, name))

    def _data(self, file: TensorFile, name: str) -> Iterable[bytes | memoryview]:
        entry = file.entries[name]
        if name in self.change_of:
            yield data_of(self._displaced(file, name))
        elif self.target(entry) == entry.dtype:
            yield from file.blocks(name)
        else:
            yield data_of(file.read(name).to(self.target(entry)))
        self.done += entry.nbytes
        if self.progress is not None:
            self.progress(name, self.done, self.total)

    def _displaced(self, file: TensorFile, name: str) -> Tensor:
        weight = file.read(name)
        change = bound(self.delta[self.change_of[name]], weight)
        target = self.target(file.entries[name])
        moved, self.relative[name] = displaced_with_error(weight, [change], name, dtype=target)
        return moved


def merge_checkpoint(
    source: str | os.PathLike[str],
    delta: Delta,
    out: str | os.PathLike[str],
    strict: bool = True,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Write a copy of a checkpoint with the delta in it, one tensor at a time, completely or not at all.

    Args:
        source: A safetensors file or a Hugging Face folder; it is not changed.
        delta: The change; unbound spectral changes take their basis from the checkpoint.
        out: A new file for a file, a new folder for a folder. An existing file is replaced, a folder never.
        strict: Whether the touched tensors must be, bit for bit, those the delta was made on.
        dtype: Floating dtype for all floating tensors; each keeps its own by default.
        progress: Called as ``progress(tensor name, bytes done, bytes in all)``.

    Raises:
        BaseMismatch, UnknownParameter, ShapeMismatch, UnsupportedLayer, NonFinite: As ``dt.applied``.
        FormatError, ConfigError: If the source cannot be read.
        OutputError: If ``out`` cannot be written, exists, is the source, or does not fit on the disk.
    """
    checkpoint = open_checkpoint(source)
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"dtype must be a floating dtype, found {dtype}")
    if new := next(iter(delta.new), None):
        raise UnsupportedLayer(f"{new}: the delta brings a vector that a checkpoint has no place for; attach it")
    check_base(delta, checkpoint, strict)
    out = Path(out).expanduser()
    _refuse_source(checkpoint.path, out)
    merge = _Merge(checkpoint, delta, _change_of(checkpoint, delta), dtype, progress, checkpoint.nbytes)
    files, left_out = _companions(checkpoint)
    weights = sum(merge.size(checkpoint.info(name)) for name in checkpoint)
    headers = sum(8 + len(file.header) for file in checkpoint.shards.values())
    require_space(out, weights + headers + sum(file.stat().st_size for file in files))
    if checkpoint.path.is_file():
        if out.suffix != ".safetensors":
            raise ConfigError(f"the merged copy of a file is a .safetensors file, found {out.name!r}")
        merge.write(next(iter(checkpoint.shards.values())), out)
    else:
        with write_folder(out) as folder:
            _write_folder(merge, folder, files, weights)
    return Merged(out, tuple(merge.relative), Rounding(merge.relative), merge.written, tuple(left_out))


def _refuse_source(source: Path, out: Path) -> None:
    source, out = source.resolve(), out.resolve()
    if out == source or source in out.parents or (out.exists() and out.samefile(source)):
        raise OutputError(f"cannot write {out}: it is the source, or inside it; the base is never written to")


def _change_of(checkpoint: Checkpoint, delta: Delta) -> dict[str, str]:
    """Return, by the tensor that moves, the name of its change.

    Where the configuration says that embeddings are tied and the file stores both copies, both move.
    """
    found = {name: name for name in delta}
    if not _config(checkpoint).get("tie_word_embeddings", False):
        return found
    for name in delta:
        entry, digest = checkpoint.info(name), None
        for other in checkpoint:
            same = checkpoint.info(other)
            if other in found or len(entry.shape) < 2 or (same.dtype, same.shape) != (entry.dtype, entry.shape):
                continue
            digest = digest or tensor_digest(checkpoint[name])
            if tensor_digest(checkpoint[other]) == digest:
                found[other] = name
    return found


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.path / "config.json"
    if not path.is_file():
        return {}
    config = parse_json(path.read_bytes(), f"{path}")
    return config if isinstance(config, dict) else {}


def _companions(checkpoint: Checkpoint) -> tuple[list[Path], list[str]]:
    """Return the files to copy beside the weights, and the names of those left out."""
    if checkpoint.path.is_file():
        return [], []
    files, left_out = [], []
    for file in sorted(checkpoint.path.rglob("*")):
        inside = file.relative_to(checkpoint.path)
        if not file.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if file.name in checkpoint.shards or file.name.endswith(".safetensors.index.json"):
            continue
        nested = len(inside.parts) > 1 and file.suffix == ".safetensors"  # weights of another module of a pipeline
        if file.suffix in _OTHER_WEIGHTS and not nested:
            left_out.append(str(inside))
        else:
            files.append(file)
    return files, left_out


def _write_folder(merge: _Merge, folder: Path, files: list[Path], weights: int) -> None:
    source = merge.source
    for shard, file in source.shards.items():
        merge.write(file, folder / shard)
    for file in files:
        target = folder / file.relative_to(source.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    if source.index is not None:
        index = {**source.index, "metadata": {**source.index.get("metadata", {}), "total_size": weights}}
        name = next(p.name for p in source.path.iterdir() if p.name.endswith(".safetensors.index.json"))
        (folder / name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config = _config(source)
    if merge.dtype is not None and config:
        stated = {key: str(merge.dtype).removeprefix("torch.") for key in ("dtype", "torch_dtype") if key in config}
        (folder / "config.json").write_text(json.dumps({**config, **stated}, indent=2) + "\n", encoding="utf-8")
