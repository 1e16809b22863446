"""A checkpoint merged with a delta, one tensor at a time, so that a model larger than memory can be merged.

    tensor = round(base + D)        in float64, rounded once to the dtype in which it is written

The copy keeps the layout: the same files, the same tensors in the same order, the configuration and tokenizer files.
Tensors that do not change are copied as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dtheta.core.apply import Rounding, bound_to, check_base
from dtheta.core.checkpoint_folder import (
    companions,
    configuration,
    copy_companions,
    refuse_source,
    require_room,
    ties_embeddings,
    with_dtype,
    write_config,
    write_index,
)
from dtheta.core.checkpoints import Checkpoint, Progress, open_checkpoint
from dtheta.core.delta import Delta
from dtheta.core.displace import displaced_with_error
from dtheta.core.fingerprint import tensor_digest
from dtheta.core.output import write_file, write_folder
from dtheta.core.paths import expanded
from dtheta.core.tensorfile import CODES, Entry, TensorFile, data_of, write_tensors
from dtheta.core.tensors import all_finite, unsaturated
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer


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
            yield data_of(converted(name, file.read(name), self.target(entry)))
        self.done += entry.nbytes
        if self.progress is not None:
            self.progress(name, self.done, self.total)

    def _displaced(self, file: TensorFile, name: str) -> Tensor:
        weight = file.read(name)
        change = bound_to(name, self.delta[self.change_of[name]], weight)
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
    if dtype is not None and not (dtype.is_floating_point and dtype in CODES):
        known = ", ".join(str(one) for one in CODES if one.is_floating_point)
        raise ConfigError(f"dtype must be a floating dtype that safetensors files hold ({known}), found {dtype}")
    if new := next(iter(delta.new), None):
        raise UnsupportedLayer(f"{new}: the delta brings a vector that a checkpoint has no place for; attach it")
    check_base(delta, checkpoint, strict)
    out = expanded(out)
    refuse_source(checkpoint.path, out)
    merge = _Merge(checkpoint, delta, _change_of(checkpoint, delta), dtype, progress, checkpoint.nbytes)
    files, left_out = companions(checkpoint)
    weights = sum(merge.size(checkpoint.info(name)) for name in checkpoint)
    require_room(checkpoint, out, weights, files)
    if checkpoint.path.is_file():
        if out.suffix != ".safetensors":
            raise ConfigError(f"the merged copy of a file is a .safetensors file, found {out.name!r}")
        merge.write(next(iter(checkpoint.shards.values())), out)
    else:
        with write_folder(out) as folder:
            _write_folder(merge, folder, files, weights)
    return Merged(out, tuple(merge.relative), Rounding(merge.relative), merge.written, tuple(left_out))


def _change_of(checkpoint: Checkpoint, delta: Delta) -> dict[str, str]:
    """Return, by the tensor that moves, the name of its change.

    Where the configuration says that embeddings are tied and the file stores both copies, both move.
    """
    found = {name: name for name in delta}
    if not ties_embeddings(configuration(checkpoint)):
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


def converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a floating tensor that does not change in another dtype.

    Raises:
        NonFinite: If that cannot hold its numbers.
    """
    found = unsaturated(tensor, dtype).to(dtype)
    if not all_finite(found) and all_finite(tensor):
        raise NonFinite(
            f"{name}: {dtype} cannot hold the numbers of this tensor of {tensor.dtype}, which it has no number for; "
            "choose a dtype of wider range, such as bfloat16, or leave dtype out"
        )
    return found


def _write_folder(merge: _Merge, folder: Path, files: list[Path], weights: int) -> None:
    source = merge.source
    for shard, file in source.shards.items():
        merge.write(file, folder / shard)
    copy_companions(source, files, folder)
    write_index(source, folder, weights)
    config = configuration(source)
    if merge.dtype is not None and config:
        write_config(with_dtype(config, merge.dtype), folder)
