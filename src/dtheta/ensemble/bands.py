"""Bands: members that are dealt over processes become rows that are dealt over processes, each with all members.

    process r has  members of its own, all rows     (m_r, ..., H, W)
    and then       all members, rows of its own     (M, ..., h_r, W)

A CRPS needs all members of a cell, and nobody can hold them all: so each process scores a band of latitudes, exactly,
and the counts of the bands are added. One exchange of the data, each value sent once.

    for lead, x in ensemble.only(part(ensemble, rank, size)).run(...):
        rows, band = banded(x)
        verification.update(start, lead, band, truth[..., rows[0] : rows[1], :], rows=rows)
    verification = summed(verification)

Shape legend: m members of a process, M members, H rows, h rows of a process, W columns.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor

from dtheta.core.seeds import key
from dtheta.ensemble.sharded import processes
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score.ensemble import Verification
from dtheta.score.ensemble.entries import Entry, Rows, joined, place


def rows_of(height: int, rank: int, size: int) -> tuple[int, int]:
    """Return the range of rows of a process; as even as can be, in the order of the processes."""
    return height * rank // size, height * (rank + 1) // size


def banded(x: Tensor, axis: int = -2) -> tuple[tuple[int, int], Tensor]:
    """Exchange members for rows; every process must take part.

    Args:
        x: States (m, ..., H, ...) of the members of this process; none or more.
        axis: Of the rows: -2 for latitudes of (..., H, W), -1 where cells have one dimension.

    Returns:
        The range of rows of this process, and all members there (M, ..., h, ...), in the order of the processes.

    Raises:
        ShapeMismatch: If processes have states of different shapes.
        ConfigError: If there are fewer rows than processes.
    """
    here = processes()
    height, axis = x.shape[axis], axis % x.ndim
    if height < here.size:
        raise ConfigError(f"{height} rows cannot be dealt over {here.size} processes; use no more than {height}")
    bands = [rows_of(height, rank, here.size) for rank in range(here.size)]
    if here.size == 1:
        return bands[0], x
    counts = _counts(x, here.size)
    first, last = bands[here.rank]
    mine = torch.cat([x.narrow(axis, a, b - a).reshape(-1) for a, b in bands])
    shapes = [[count, *x.shape[1:axis], last - first, *x.shape[axis + 1 :]] for count in counts]
    sizes = [int(torch.Size(shape).numel()) for shape in shapes]
    found = x.new_empty(sum(sizes))
    row = x.narrow(axis, 0, 1).numel()
    dist.all_to_all_single(found, mine, sizes, [row * (b - a) for a, b in bands])
    return (first, last), torch.cat([part.reshape(s) for part, s in zip(found.split(sizes), shapes, strict=True)])


def _counts(x: Tensor, size: int) -> list[int]:
    """Return how many members each process has.

    Raises:
        ShapeMismatch: If their states differ in shape.
    """
    dimensions = {count for (count,) in _gathered([x.ndim], size)}
    shapes = _gathered(list(x.shape), size) if len(dimensions) == 1 else []
    if len({tuple(shape[1:]) for shape in shapes}) != 1:
        raise ShapeMismatch("banded: the processes have states of different shapes; run one ensemble on all of them")
    return [shape[0] for shape in shapes]


def summed(verification: Verification) -> Verification:
    """Return the verification of all processes, each of which counted its rows of the same starts and leads.

    Every process must take part, and every one gets the sum.

    Raises:
        ConfigError: If the processes did not count the same starts, leads and numbers of members, or a row was counted
            twice.
    """
    size = processes().size
    if size == 1:
        return verification
    keys = sorted(verification.entries, key=lambda pair: (str(pair[0]), pair[1]))
    members = [verification.entries[at].members for at in keys]
    _require_equal(f"{keys} {members} {verification.document()}", size)
    for at in keys:
        if len(verification.entries[at].rows) != 1:
            raise ConfigError(f"summed: {place(*at)} has rows that are no band; count one band on each process")
    found = copy.copy(verification)
    found.entries = {at: _summed(verification.entries[at], place(*at), size) for at in keys}
    return found


def _summed(entry: Entry, where: str, size: int) -> Entry:
    weight, totals = _sum(entry.weight), {statistic: _sum(total) for statistic, total in entry.totals.items()}
    rows: Rows = ()
    for low, high in _gathered([entry.rows[0][0], entry.rows[-1][1]], size):
        rows = joined(rows, ((low, high),), where)
    return Entry(entry.members, rows, weight, totals)


def _require_equal(text: str, size: int) -> None:
    if len({one for (one,) in _gathered([key(0, text)], size)}) != 1:
        raise ConfigError(
            "summed: the processes counted other starts or leads, other numbers of members, or by other verifications"
        )


def _sum(tensor: Tensor) -> Tensor:
    shared = tensor.to(_device(), copy=True)
    dist.all_reduce(shared)
    return shared.to(tensor.device)


def _gathered(numbers: list[int], size: int) -> list[list[int]]:
    """Return the whole numbers of every process, as many from each."""
    mine = torch.tensor(numbers, dtype=torch.int64, device=_device())
    found = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(found, mine)
    return [one.tolist() for one in found]


def _device() -> str:
    """Return where what processes exchange has to be."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
