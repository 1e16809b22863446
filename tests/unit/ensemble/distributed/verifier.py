"""One of several processes that score an ensemble by bands; the first writes the scores of all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from dtheta.core.sphere import Grid
from dtheta.ensemble.bands import banded, summed
from dtheta.ensemble.sharded import launched
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score.ensemble import Verification, standard_metrics

GRID, MEMBERS, LEADS = Grid(7, 12), 9, (6, 12)


def fields(lead: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(lead)
    return torch.randn(MEMBERS, 2, 7, 12, generator=draw), torch.randn(2, 7, 12, generator=draw)


def verification() -> Verification:
    metrics = standard_metrics(climatology="mean", thresholds=["edge"])
    references = {"mean": torch.zeros(2, 7, 12), "edge": torch.ones(2)}
    return Verification(metrics, grid=GRID, channels=["a", "b"], references=references)


def score(folder: Path, rank: int, size: int) -> None:
    found = verification()
    for lead in LEADS:
        x, y = fields(lead)
        rows, band = banded(x[MEMBERS * rank // size : MEMBERS * (rank + 1) // size])
        found.update(0, lead, band, y[:, rows[0] : rows[1]], rows=rows)
    whole = summed(found)
    if rank == 0:
        (folder / "scores.json").write_text(json.dumps(whole.result(resamples=2).to_dict()))


def fewer(rank: int) -> Verification:
    """Return bands of which that of the second process lacks a member."""
    found, (x, y) = verification(), fields(6)
    rows = ((0, 4), (4, 7), *[(0, 7)] * 2)[rank]
    found.update(0, 6, x[rank:, :, rows[0] : rows[1]], y[:, rows[0] : rows[1]], rows=rows)
    return found


def refuse(folder: Path, rank: int) -> None:
    """Each refusal is that of all processes, so nobody waits for another."""
    said = []
    found = verification()
    for act in (
        lambda: banded(torch.zeros(2, 7 + rank, 3)),
        lambda: banded(torch.zeros(2, *[3] * (2 + rank))),
        lambda: banded(torch.zeros(2, 1, 3)),
        lambda: (found.update(rank, 6, *fields(6)), summed(found)),
        lambda: summed(fewer(rank)),
    ):
        try:
            act()
        except (ConfigError, ShapeMismatch) as error:
            said.append(str(error))
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    with launched("gloo", timeout=60) as here:
        score(Path(sys.argv[1]), here.rank, here.size)
        refuse(Path(sys.argv[1]), here.rank)
