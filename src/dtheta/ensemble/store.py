"""Archive: a run on disk, as a zarr group that xarray opens, appended lead by lead and resumed after anything.

    FIELD (realization, forecast_period, ...axes)       one array a field, chunks of some members at one lead
    forecast_reference_time, time                       where the start is a date
    member_parameters, member_draw, member_sign         who a realization is
    progress/                                           journals of what is complete (progress.py)

A chunk is written whole, by one process, and counts only once its line in a journal says so. What a kill, a lost worker
or a full disk leaves behind is a shorter archive, never a wrong one; ``archive`` called again goes on from the last
lead of each chunk, bit for bit, on any number of processes. Missing members are NaN.

Data is stored as it is, uncompressed: fields of an ensemble hardly compress, and this keeps every bit.

Shape legend: M members, m members of a part, T leads, C channels, ... the state.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.ensemble.groups import reading, zarr_module
from dtheta.ensemble.progress import Progress, content_digest
from dtheta.errors import ConfigError, FormatError, MissingExtra, OutputError

RECORD = "dtheta_ensemble"  # the attribute of the group that holds the record


@dataclass(frozen=True)
class Missing:
    """Members ``first`` to ``stop`` (not included) that lack some leads."""

    first: int
    stop: int
    leads: tuple[int, ...]


class Archive:
    """A run on disk; made by ``dtheta.ensemble.archive``, opened by ``open_archive``.

    Attributes:
        path: the folder.
        record: what the run is: ensemble, start and layout.
        members: M.
        leads: the stored leads, in steps.
        chunk: members of a chunk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open an archive.

        Raises:
            FormatError: if there is none, or it is no archive of ours.
        """
        zarr = zarr_module()
        self.path = Path(path)
        with reading(f"{self.path} is no ensemble that dtheta wrote"):
            self.group = zarr.open_group(self.path, mode="r+")
            self.record: dict[str, Any] = json.loads(str(self.group.attrs[RECORD]))
            self.members = len(self.record["ensemble"]["members"])
            self.leads: list[int] = [int(lead) for lead in self.record["leads"]]
            self.chunk = int(self.record["chunk"])
            self._names = [str(one[0]) for one in self.record["layout"]["fields"]]
            self._shape = tuple(int(n) for n in self.record["layout"]["shape"])
            self._channels = bool(self.record["layout"]["channels"])
            self._arrays = [self.group[name] for name in self._names]
            self._check_arrays()
        self._column = {lead: t for t, lead in enumerate(self.leads)}
        self.progress = Progress(self.path / "progress")

    def _check_arrays(self) -> None:
        """Hold what the arrays say of themselves against the record, so that nothing is read that was only claimed."""
        for name, array in zip(self._names, self._arrays, strict=True):
            sizes = self._shape[1:] if self._channels else self._shape
            shape = (self.members, len(self.leads), *sizes)
            if array.shape[:2] != shape[:2] or math.prod(array.shape) != math.prod(shape):
                raise ValueError(f"array {name!r} is {array.shape}; expected {shape}")
            if array.chunks != (min(self.chunk, self.members), 1, *array.shape[2:]):
                raise ValueError(f"array {name!r} is in chunks of {array.chunks}, not of {self.chunk} members")

    @property
    def chunks(self) -> int:
        """How many chunks the members are in."""
        return -(-self.members // self.chunk)

    def span(self, chunk: int) -> tuple[int, int]:
        """Return the first member of a chunk, and the one after its last."""
        return chunk * self.chunk, min(self.members, (chunk + 1) * self.chunk)

    def write(self, first: int, lead: int, x: Tensor) -> None:
        """Write states (m, ...) of whole chunks, the first of them that of member ``first``, at a lead.

        Raises:
            ConfigError: if the lead is not one of the archive, or the members are no whole chunks.
            OutputError: if the disk is full; what was written before stays and counts.
        """
        chunk, rest = divmod(first, self.chunk)
        stop = first + len(x)
        if rest or (stop % self.chunk and stop != self.members) or lead not in self._column:
            raise ConfigError(
                f"members {first} to {stop - 1} at lead {lead} cannot be written: expected whole chunks of "
                f"{self.chunk} members, and one of the leads {self.leads[0]} to {self.leads[-1]}"
            )
        values = x.detach().cpu().numpy()
        parts = [values[:, c] for c in range(len(self._names))] if self._channels else [values]
        with self._writing(lead):
            for array, part in zip(self._arrays, parts, strict=True):
                array[first:stop, self._column[lead]] = part
            for i in range(chunk, -(-stop // self.chunk)):
                low, high = (bound - first for bound in self.span(i))
                self.progress.add(i, lead, content_digest(part[low:high] for part in parts))

    def read(self, first: int, stop: int, lead: int, check: bool = True) -> Tensor:
        """Return the states (m, ...) of members ``first`` to ``stop`` (not included) at a lead.

        Args:
            first: a member.
            stop: the member after the last.
            lead: in steps.
            check: whether to compare whole chunks with the digests of what was written.

        Raises:
            ConfigError: if they are not there.
            FormatError: if a chunk is not what was written.
        """
        for i in range(first // self.chunk, -(-stop // self.chunk)):
            if (i, lead) not in self.progress.done:
                raise ConfigError(f"members {self.span(i)[0]} on are not written at lead {lead}; see missing()")
        with reading(f"{self.path} cannot be read at lead {lead}"):
            values = [np.asarray(array[first:stop, self._column[lead]]) for array in self._arrays]
        for i in range(first // self.chunk, -(-stop // self.chunk)) if check else ():
            low, high = self.span(i)
            if low < first or high > stop:
                continue
            if content_digest(v[low - first : high - first] for v in values) != self.progress.done[i, lead]:
                raise FormatError(
                    f"{self.path}: members {low} to {high - 1} at lead {lead} are not what was written; the disk or "
                    "another program changed them. Remove the archive's folder and run anew"
                )
        found = torch.from_numpy(np.stack(values, 1) if self._channels else values[0])
        return found.reshape(stop - first, *self._shape)

    def check(self) -> None:
        """Read all chunks once and hold them against the digests of what was written, a chunk at a time.

        Raises:
            ConfigError: if members are missing.
            FormatError: if a chunk is not what was written, or is gone.
        """
        for lead in self.leads:
            for i in range(self.chunks):
                self.read(*self.span(i), lead)

    def missing(self) -> list[Missing]:
        """Return which members lack which leads; empty where all is there."""
        self.progress.read()
        found: list[Missing] = []
        for i in range(self.chunks):
            leads = tuple(lead for lead in self.leads if (i, lead) not in self.progress.done)
            first, stop = self.span(i)
            if leads and found and found[-1].leads == leads and found[-1].stop == first:
                found[-1] = Missing(found[-1].first, stop, leads)
            elif leads:
                found.append(Missing(first, stop, leads))
        return found

    def states(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (lead, states (M, ...)), as the run did.

        Raises:
            ConfigError: if members are missing.
        """
        self.progress.read()
        for lead in self.leads:
            yield lead, self.read(0, self.members, lead)

    def to_xarray(self) -> Any:
        """Return the archive as an ``xarray.Dataset``, read when used.

        Raises:
            MissingExtra: where xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise MissingExtra("this needs xarray: pip install 'dtheta[weather]'") from error
        return xarray.open_zarr(self.path, consolidated=False, decode_timedelta=False)

    @contextmanager
    def _writing(self, lead: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            done = sum(1 for _, at in self.progress.done if at == lead)
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}. All leads before {lead} are kept, and {done} of "
                f"{self.chunks} chunks of this one; free some space and start the same run again: it goes on from there"
            ) from error

    def __repr__(self) -> str:
        left = sum((gap.stop - gap.first) * len(gap.leads) for gap in self.missing())
        done = self.members * len(self.leads) - left
        return f"Archive({self.path}, {self.members} members, {len(self.leads)} leads, {done:,} states written)"


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Return the archive in a folder.

    Raises:
        FormatError: if there is none, or it is no archive of ours.
    """
    return Archive(path)
