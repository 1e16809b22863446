"""archive: run an ensemble into a folder, or go on with a run that was interrupted.

Members are cut into chunks, chunks are dealt to the processes in order, and each process runs its chunks together, lead
by lead, from the last lead that all of them have. Nothing is exchanged on the way, so a process that is lost takes only
what it had not written.

Shape legend: M members, m members of a part, ... the state.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.fingerprint import tensor_digest
from dtheta.core.sphere import Grid
from dtheta.ensemble.checks import checked_leads, checked_past, checked_state
from dtheta.ensemble.creation import create
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.layout import Field, layout
from dtheta.ensemble.sharded import Processes, processes, ranges
from dtheta.ensemble.store import Archive
from dtheta.ensemble.times import Time, start_time
from dtheta.errors import ConfigError, DthetaError, MembersMissing, OutputError

#: Called after each lead of a part: (first member, member after the last, lead).
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class _Wave:
    """Chunks that are run together, and the column of the last lead that all of them have; -1 for none."""

    chunks: range
    column: int


def archive(
    ensemble: Ensemble,
    path: str | os.PathLike[str],
    state: Tensor,
    leads: int | Sequence[int],
    *,
    past: Tensor | Sequence[Tensor] | None = None,
    time: Time = 0,
    fields: Sequence[Field | str] | None = None,
    grid: Grid | None = None,
    chunk: int | None = None,
    hold: int | None = None,
    progress: Progress | None = None,
) -> Archive:
    """Run an ensemble into a folder, and return the archive there.

    Where the folder is there already, it must be of the same run; what it lacks is computed, from the last lead of each
    chunk of members, and nothing else. Under ``torchrun`` every process calls this, and each runs its share.

    Args:
        ensemble: what to run.
        path: of the folder, a zarr group.
        state: the analysis (...), as in ``Ensemble.run``.
        leads: the last lead in steps, or those to be stored, ascending.
        past: analyses before it, as in ``Ensemble.run``.
        time: of the start.
        fields: one a channel, the first axis of a state: ``Field("z500", "m", "geopotential_height")``, or a name.
        grid: of the last two axes of a state.
        chunk: members that are stored together; None for about 4 MB a field.
        hold: the most members in memory at a time; None for all of a process. Whole chunks are held.
        progress: called after each lead.

    Raises:
        ConfigError: if the folder is of another run, or ``chunk`` or ``hold`` is no whole number of 1 or more.
        FormatError: if it is no archive, or was changed by another program.
        OutputError: if it cannot be written; what was written stays.
        MembersMissing: if another process was lost, naming its members; what was written stays.
        NonFinite, ShapeMismatch: as ``Ensemble.run``; what was written stays.

    Where the first process cannot make the folder, the others raise its error, too, and say that it is from there.
    """
    wanted, when = checked_leads(leads), start_time(time)
    for name, given in (("chunk", chunk), ("hold", hold)):
        if given is not None:
            whole(given, name, least=1)
    known = checked_past(past, state, ensemble.past)
    digests = {"state": tensor_digest(checked_state(state)), "past": tensor_digest(known)}
    here = processes()
    with _by_the_first(here) as first:
        if first and not Path(path).exists():
            create(
                path, ensemble, layout(state.shape, fields, grid), wanted, when,
                dtype=state.dtype, chunk=_shared_out(ensemble, here.size) if chunk is None else chunk, start=digests,
            )  # fmt: skip
    found = Archive(path)
    _check_same(found, ensemble, layout(state.shape, fields, grid).to_dict(), wanted, str(when), digests)
    waves = list(_waves(found, here.rank, here.size, hold))
    _all_know(here)
    for wave in waves:
        _run(found, wave, ensemble, state, known, time, progress)
    if here.size > 1:
        _all_there(found)
    return found


@contextmanager
def _by_the_first(here: Processes) -> Iterator[bool]:
    """Run a block, which is told whether this is the first process; the others wait until that one is through.

    Raises:
        DthetaError: in the others, what the first process raised; of its own kind where it is one of ours.
        MembersMissing: in the others, if the first process was lost.
    """
    failed: Exception | None = None
    try:
        yield here.rank == 0
    except Exception as error:
        failed = error
    told = [failed if failed is None or isinstance(failed, DthetaError) else OutputError(repr(failed))]
    if here.size > 1:
        try:
            dist.broadcast_object_list(told)
        except RuntimeError as error:
            if here.rank:  # the first has its own error, or meets the loss when all wait for each other
                raise MembersMissing(
                    "the first process was lost before it had made the folder, so no member was computed; it says why "
                    "itself. Start the same run again"
                ) from error
    if failed is not None:
        raise failed
    if told[0] is not None:
        raise type(told[0])(f"the first process of {here.size} failed, and this one, {here.rank}, with it: {told[0]}")


def _all_know(here: Processes) -> None:
    """Wait until every process knows its share: they deal out what is missing before anyone writes of it.

    Raises:
        MembersMissing: if a process was lost.
    """
    if here.size > 1:
        try:
            dist.barrier()
        except RuntimeError as error:
            raise MembersMissing(
                "a process was lost before any member was computed; it says why itself. Start the same run again"
            ) from error


def _all_there(found: Archive) -> None:
    """Wait for the other processes, and raise where one was lost before it wrote its members."""
    try:
        dist.barrier()
    except RuntimeError as error:
        gaps = found.missing()
        if gaps:
            numbers = [i for gap in gaps for i in range(gap.first, gap.stop)]
            raise MembersMissing(
                f"a process was lost: {len(numbers)} members lack leads: {ranges(numbers)}. What the others wrote is "
                f"in {found.path}; start the same run again, on any number of processes: it makes these alone"
            ) from error


def _run(
    found: Archive, wave: _Wave, ensemble: Ensemble, state: Tensor, past: Tensor, time: Time, progress: Progress | None
) -> None:
    """Run the members of a wave, and write each lead."""
    first, stop = found.span(wave.chunks[0])[0], found.span(wave.chunks[-1])[1]
    since = None
    if wave.column >= 0:
        lead = found.leads[wave.column]
        since = (lead, found.read(first, stop, lead).to(state.device))
    run = ensemble.only(range(first, stop)).run(state, found.leads, past=past, time=time, since=since)
    for lead, x in run:
        found.write(first, lead, x)
        if progress is not None:
            progress(first, stop, lead)


def _waves(found: Archive, rank: int, size: int, hold: int | None) -> Iterator[_Wave]:
    """Yield the chunks of this process that lack leads, those together that have the same ones."""
    found.progress.read()
    columns = [_column(found, i) for i in range(found.chunks)]
    left = [i for i, column in enumerate(columns) if column < len(found.leads) - 1]
    mine = left[len(left) * rank // size : len(left) * (rank + 1) // size]
    most = len(mine) if hold is None else max(1, hold // found.chunk)
    i = 0
    while i < len(mine):
        j = i + 1
        while j < len(mine) and j - i < most and mine[j] == mine[j - 1] + 1 and columns[mine[j]] == columns[mine[i]]:
            j += 1
        yield _Wave(range(mine[i], mine[j - 1] + 1), columns[mine[i]])
        i = j


def _column(found: Archive, chunk: int) -> int:
    """Return the column of the last lead up to which a chunk has all; -1 for none."""
    lacking = (t for t, lead in enumerate(found.leads) if (chunk, lead) not in found.progress.done)
    return next(lacking, len(found.leads)) - 1


def _shared_out(ensemble: Ensemble, size: int) -> int | None:
    """Return members of a chunk of which every process gets some; None where one process has all."""
    return max(1, len(ensemble) // (4 * size)) if size > 1 else None


def _check_same(
    found: Archive, ensemble: Ensemble, layout_: dict[str, Any], leads: list[int], time: str, start: dict[str, str]
) -> None:
    """Raise unless an archive is of this run, naming what differs."""
    expected = {"leads": leads, "time": time, "start": start, "layout": layout_, **ensemble.to_dict()}
    expected = json.loads(json.dumps(expected))  # as the archive has it
    stored = {**found.record, **found.record["ensemble"]}
    differ = [name for name in expected if stored.get(name) != expected[name] and name not in ("dtheta", "torch")]
    if differ:
        what = differ[0]
        raise ConfigError(
            f"{found.path} is of another run: {', '.join(differ)} differ; {what} there is {stored.get(what)!r:.80}, "
            f"here {expected[what]!r:.80}. Give another folder, or the settings that it was begun with"
        )
    if stored.get("torch") != torch.__version__:
        raise ConfigError(
            f"{found.path} was begun with torch {stored.get('torch')}, this is {torch.__version__}: its members would "
            "not all have the same last bits; go on with that version, or give another folder"
        )
