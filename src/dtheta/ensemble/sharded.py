"""Sharded: the members of an ensemble dealt to the processes that ``torchrun`` started.

    part(ensemble, rank, size)     the members of one process: whole blocks, as equal in number as can be
    gathered(...)                  a run of which every process has all members at each lead
    dtheta.ensemble.archive(...)   a run of which every process writes its own members; nothing is sent

Members need nothing of each other, and each has the bits that it has anywhere, so two processes give what one gives.
While nothing is gathered, a process that is lost takes only its own members with it, and the run that is started again
makes those alone. Where states are gathered, the others notice at once and say which members are missing.
"""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.ensemble.checks import checked_leads
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.times import Time
from dtheta.errors import ConfigError, MembersMissing

_GRACE = 3.0  # seconds in which the others report after one was lost, beside twice the time of a lead


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: number of this one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1


def processes() -> Processes:
    """Return this process and how many there are: of ``torch.distributed`` where it runs, else one."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


@contextmanager
def launched(backend: str | None = None, timeout: float = 3600.0) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, for the length of a block; alone, nothing happens.

    Args:
        backend: of ``torch.distributed``; None for nccl where there are accelerators of CUDA, else gloo.
        timeout: seconds that processes wait for each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield processes()
        return
    dist.init_process_group(
        backend or ("nccl" if torch.cuda.is_available() else "gloo"), timeout=timedelta(seconds=timeout)
    )
    try:
        yield processes()
    finally:
        dist.destroy_process_group()


def part(ensemble: Ensemble, rank: int, size: int) -> list[int]:
    """Return the indices of the members that a process computes, ascending; may be empty.

    Args:
        ensemble: all members.
        rank: number of the process.
        size: how many there are.

    Raises:
        ConfigError: for a rank that there is not.
    """
    if not 0 <= whole(rank, "rank") < whole(size, "size", least=1):
        raise ConfigError(f"rank is {rank}; expected 0 to {size - 1}")
    blocks = ensemble.blocks
    mine = blocks[len(blocks) * rank // size : len(blocks) * (rank + 1) // size]
    return sorted(index for block in mine for _, index in block.places)


def gathered(
    ensemble: Ensemble,
    state: Tensor,
    leads: int | Sequence[int],
    *,
    past: Tensor | Sequence[Tensor] | None = None,
    time: Time = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Run the members of this process, and yield (lead, states (M, ...)) of all processes.

    Every process must take part up to the last lead.

    Raises:
        MembersMissing: if a process was lost, naming its members; ``ensemble.only(those).run(...)`` makes them again.
        ConfigError, ShapeMismatch, NonFinite: as ``Ensemble.run``.
    """
    here = processes()
    if here.size == 1:
        yield from ensemble.run(state, leads, past=past, time=time)
        return
    parts = [part(ensemble, rank, here.size) for rank in range(here.size)]
    run: Iterator[tuple[int, Tensor]]
    if parts[here.rank]:
        run = ensemble.only(parts[here.rank]).run(state, leads, past=past, time=time)
    else:  # fewer blocks than processes
        run = ((lead, state.new_empty(0, *state.shape)) for lead in checked_leads(leads))
    longest, since = 0.0, clock.monotonic()
    for lead, x in run:
        longest = max(longest, clock.monotonic() - since)
        yield lead, _joined(x, parts, here, lead, _GRACE + 2 * longest)
        since = clock.monotonic()


def _joined(x: Tensor, parts: list[list[int]], here: Processes, lead: int, grace: float) -> Tensor:
    """Return the states of all members, from those that each process has."""
    most = max(map(len, parts))
    mine = x.new_zeros(most, *x.shape[1:])
    mine[: len(x)] = x
    found = [torch.empty_like(mine) for _ in parts]
    try:
        dist.all_gather(found, mine)
    except RuntimeError as error:
        raise _lost(parts, here, lead, grace, error) from error
    whole_ = x.new_empty(sum(map(len, parts)), *x.shape[1:])
    for indices, states in zip(parts, found, strict=True):
        whole_[torch.tensor(indices, dtype=torch.long, device=x.device)] = states[: len(indices)]
    return whole_


def _lost(parts: list[list[int]], here: Processes, lead: int, grace: float, error: Exception) -> MembersMissing:
    """Return the error that names the members of the processes that do not report any more."""
    silent = _silent(here, grace)
    if silent is None:
        return MembersMissing(f"at lead {lead} the first process was lost, and with it the others: {error}")
    if not silent:
        return MembersMissing(f"at lead {lead} processes could not exchange members, though all are there: {error}")
    missing = sorted(index for rank in silent for index in parts[rank])
    return MembersMissing(
        f"process {', '.join(map(str, silent))} of {here.size} was lost at lead {lead}, and with it {len(missing)} "
        f"members: {ranges(missing)}; every other one is complete up to here. ensemble.only(...) of these runs them "
        "again, with the same bits"
    )


def _silent(here: Processes, grace: float) -> list[int] | None:
    """Return the ranks that do not answer in time; None if nobody can be asked, since the first is gone."""
    keys = [f"dtheta/ensemble/alive/{rank}" for rank in range(here.size)]
    try:
        store: Any = dist.distributed_c10d._get_default_store()
        store.set(keys[here.rank], "1")
        until = clock.monotonic() + grace
        while clock.monotonic() < until and not store.check(keys):
            clock.sleep(0.05)
        silent = [rank for rank, key in enumerate(keys) if not store.check([key])]
        if here.rank == 0:
            clock.sleep(1 + grace / 5)  # the first process holds what the others still ask
        return silent
    except RuntimeError:
        return None


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text: ``0 to 7, 12, 16 to 31``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)
