"""Checkpoints on disk, read one tensor at a time.

FOLDER/model.safetensors                 one file, or
FOLDER/model.safetensors.index.json      {"weight_map": {tensor: shard}} and the shards beside it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dtheta.core.tensorfile import (
    MAX_HEADER,
    Entry,
    TensorFile,
    existing,
    names_in,
    open_tensors,
    parse_json,
    read_bytes,
)
from dtheta.errors import FormatError, UnknownParameter, did_you_mean

#: Called as ``progress(tensor name, bytes done, bytes in all)``.
Progress = Callable[[str, int, int], None]

INDEX = "model.safetensors.index.json"
INDEX_SUFFIX = ".safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Checkpoint(Mapping[str, Tensor]):
    """Tensors by name, read when asked for and never kept; made by ``open_checkpoint``.

    Attributes:
        path: The folder, or the one file.
        shards: The checked header of each file, by file name.
        index: The JSON index of a sharded checkpoint.
        index_name: The name of its file.
    """

    def __init__(
        self,
        path: Path,
        shards: Mapping[str, TensorFile],
        index: Mapping[str, Any] | None = None,
        index_name: str | None = None,
    ) -> None:
        self.path = path
        self.shards = shards
        self.index = index
        self.index_name = index_name
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
    if path.suffix in PICKLES:
        raise FormatError(f"{path} {_PICKLE}")
    return _open_single(path, path)


_PICKLE = (
    "is a pickle, which can run code when it is opened; dtheta reads safetensors only. Convert it where you trust it: "
    "load the model there and call save_pretrained(folder), which writes safetensors"
)


def _open_folder(folder: Path) -> Checkpoint:
    names = names_in(folder)
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
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
    if pickles := [name for name in names if name.endswith(PICKLES)]:
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
    return Checkpoint(path.parent, shards, index, path.name)


def _read_index(path: Path) -> dict[str, Any]:
    index = parse_json(read_bytes(path, MAX_HEADER), f"{path}: the index")
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
