"""Merge whole checkpoints, one tensor at a time and each a range at a time: larger than memory, to any size.

    for each tensor    trim      visits of the steps of every input, to find what is kept       (ties, breadcrumbs)
                       scale     one visit, for L1 norms or the angle                           (dare, slerp)
                       write     one visit: read, mix in float64, round once, digest, write

No visit holds more than a range of each input (core/stream.py), unless memory is left to keep a tensor's inputs, which
saves reading them again. The result has the same bits either way, however the inputs are sharded, and whatever else is
merged: it depends on the numbers, the plan and the seed.

The folder appears whole or not at all; merge_folder.py says what is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from dtheta.compose.merge_folder import complete, require_place
from dtheta.compose.merge_parts import Part
from dtheta.compose.merge_plan import MergePlan
from dtheta.compose.preflight import HELD, Preflight, preflight
from dtheta.compose.slab_inputs import Opening, file_of, is_whole, opened
from dtheta.compose.visits import mixture
from dtheta.core.arguments import whole
from dtheta.core.checkpoint_merge import converted
from dtheta.core.checkpoints import Checkpoint, Progress
from dtheta.core.fingerprint import merkle_root
from dtheta.core.header import Opened
from dtheta.core.output import write_file, write_folder
from dtheta.core.paths import expanded
from dtheta.core.stream import StreamDigest, announce, ranges
from dtheta.core.tensorfile import data_of, write_tensors
from dtheta.errors import BaseMismatch, NonFinite, UnsupportedLayer


@dataclass(frozen=True)
class MergedCheckpoints:
    """What a merge of checkpoints did.

    Attributes:
        path: The merged checkpoint.
        tensors: Number of tensors.
        nbytes: Bytes of weights written.
        inputs: Digest of each input by its path: the root of all tensors that were read, or the delta's own.
        kept: How many of the tensors had all their inputs in memory.
        left_out: Files of the base that were not copied: weights in formats that would be stale.
        notes: What is worth knowing.
    """

    path: Path
    tensors: int
    nbytes: int
    inputs: Mapping[Path, str]
    kept: int
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge_checkpoints(
    plan: MergePlan | Preflight,
    out: str | os.PathLike[str],
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> MergedCheckpoints:
    """Merge checkpoints that may be larger than memory into a new folder, completely or not at all.

    Args:
        plan: What to merge (``merge_plan``, ``read_plan``), or its preflight.
        out: The new folder.
        max_memory: Bytes that the merge may take beside what the process holds already; a gigabyte by default.
        progress: Called as ``progress(tensor name, bytes done, bytes in all)``.

    Raises:
        ConfigError: If the merge cannot be done, naming every reason; before a tensor is read.
        BaseMismatch: If a delta was made on another base.
        UnsupportedLayer: If integer tensors differ between the inputs.
        NonFinite: If an input holds NaN or infinity, or the result overflows its dtype.
        FormatError: If a file is damaged.
        OutputError: If ``out`` cannot be written, exists, is one of the inputs, or does not fit on the disk.
    """
    found = plan if isinstance(plan, Preflight) else preflight(plan)
    memory = 1 << 30 if max_memory is None else whole(max_memory, "max_memory, in bytes,")
    found.require(memory)
    out = expanded(out)
    require_place(found, out)
    work = _Work(found, memory, progress)
    with write_folder(out) as folder:
        for shard, parts in found.shards.items():
            work.write(folder / shard, parts)
        inputs = work.roots()
        left_out = complete(found, inputs, folder)
    notes = tuple(found.notes)
    return MergedCheckpoints(out, work.count, work.written, inputs, work.kept, tuple(left_out), notes)


@dataclass
class _Work:
    """A merge under way."""

    found: Preflight
    memory: int
    progress: Progress | None
    count: int = 0
    kept: int = 0
    written: int = 0
    done: int = 0
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    _following: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path, parts: list[Part]) -> None:
        """Write one file of the result."""
        table = {part.name: part for part in parts}
        self._following = dict(pairwise(table))
        specs = {part.name: (part.dtype, part.shape) for part in parts}
        with write_file(path) as handle:
            self.written += write_tensors(handle, specs, {"format": "pt"}, lambda name: self._data(table, name))

    def _data(self, table: Mapping[str, Part], name: str) -> Iterator[memoryview]:
        part = table[name]
        self._announce(table.get(self._following.get(name, "")))
        resident = HELD + part.least() + part.resident() <= self.memory
        self.count, self.kept = self.count + 1, self.kept + resident
        with opened(part, resident) as opening:
            digests = [StreamDigest(stream.entry.dtype, stream.entry.shape) for _, stream in opening.streams]
            yield from self._merged(part, opening, digests)
            for (checkpoint, stream), digest in zip(opening.streams, digests, strict=True):
                self.digests.setdefault(id(checkpoint), {})[stream.name] = digest.hexdigest()
        self._require_base(part)
        self.done += part.nbytes
        if self.progress is not None:
            self.progress(part.name, self.done, self.found.writes)

    def _announce(self, part: Part | None) -> None:
        """Have the disk fetch the inputs of the next tensor while this one is computed."""
        for checkpoint, name in part.stored() if part is not None else ():
            announce(file_of(checkpoint, name), name)

    def _merged(self, part: Part, opening: Opening, digests: list[StreamDigest]) -> Iterator[memoryview]:
        mix = None if _is_copied(part) else mixture(part, opening, self.found.plan)
        for start, stop in ranges(part.numel):
            raw = []
            for (_, stream), digest in zip(opening.streams, digests, strict=True):
                raw.append(stream.read(start, stop))
                digest.update(raw[-1])
            if mix is None:
                same = _copied(part, raw)
                yield data_of(same if same.dtype == part.dtype else converted(part.name, same, part.dtype))
                continue
            total = mix(start, stop)
            result = total.to(part.dtype)
            if not bool(torch.isfinite(result.sum(dtype=torch.float64))):
                _require_finite(part, result, raw, opening)
            yield data_of(result)

    def _require_base(self, part: Part) -> None:
        """Raise if a delta that moves this tensor was made on another one."""
        if part.base is None:
            return
        checkpoint, name = part.base
        for model, inner in part.inputs:
            if not isinstance(model, Opened) or inner is None:
                continue
            wanted = model.header.base.digests.get(inner)
            if wanted is not None and wanted != self.digests[id(checkpoint)][name]:
                raise BaseMismatch(
                    f"{model.file.path} was made for another base: {name!r} of {checkpoint.path} has other content; "
                    "'dtheta show FILE' says which base it is of"
                )

    def roots(self) -> dict[Path, str]:
        """Return the digest of every input."""
        found = {}
        for path, model in self.found.models.items():
            if isinstance(model, Opened):
                found[path] = model.header.digest
            else:
                found[path] = merkle_root(self.digests.get(id(model), {}))
        return found


def _is_copied(part: Part) -> bool:
    """Tell whether a tensor keeps its bits: an integer one, or a stored one that passes through unscaled."""
    stored = isinstance(part.inputs[0][0], Checkpoint) if part.inputs else False
    return is_whole(part) or (stored and part.each.get("scale") == (None,))


def _copied(part: Part, raw: list[Tensor]) -> Tensor:
    """Return the range of a tensor that is not mixed: that of its one input, or of all, which must have the same.

    Raises:
        UnsupportedLayer: If they differ.
    """
    for other in raw[1:] if is_whole(part) else ():
        if not torch.equal(other, raw[0]):
            raise UnsupportedLayer(
                f"{part.name}: it holds integers that differ between the inputs, and those cannot be mixed; make them "
                "equal first"
            )
    return raw[0]


def _require_finite(part: Part, result: Tensor, raw: list[Tensor], opening: Opening) -> None:
    """Raise where a range of the result is not finite, saying why."""
    for (checkpoint, stream), values in zip(opening.streams, raw, strict=True):
        if not bool(torch.isfinite(values.double()).all()):
            raise NonFinite(f"{checkpoint.path}: {stream.name!r} holds NaN or infinity; it cannot be merged")
    if not bool(torch.isfinite(result.double()).all()):
        raise NonFinite(
            f"{part.name}: the result is more than {part.dtype} holds; choose a wider dtype or smaller weights"
        )
