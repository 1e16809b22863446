"""What every process of the distributed tests runs: python worker.py MODE FOLDER, with the variables of torchrun.

gathered       all members at each lead, written by the first process to FOLDER/gathered.safetensors
gathered-lost  the same; the last process ends without a word at lead 2
archive        every process writes its members to FOLDER/archive
archive-full   the same; the first process finds the disk full as it makes the folder
archive-broken the same; there the first process meets an error of somebody else
archive-lost   the same; the last process ends without a word once it has written lead 2
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dtheta.ensemble import archiving
from dtheta.ensemble.archiving import archive
from dtheta.ensemble.bred import BredVectors
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.members import cross
from dtheta.ensemble.noise import WhiteNoise
from dtheta.ensemble.sharded import gathered, launched
from dtheta.errors import MembersMissing, OutputError

torch.set_num_threads(1)
LEADS = 4


class Network(nn.Module):
    """A residual step of 64 variables."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.inner, self.outer = nn.Linear(64, 128), nn.Linear(128, 64)
        for parameter in self.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draws)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.outer(torch.tanh(self.inner(x)))


ANALYSES = torch.randn(3, 64, generator=torch.Generator().manual_seed(5))


def ensemble() -> Ensemble:
    """30 members of 3 networks."""
    networks = [Network(seed) for seed in range(3)]
    bred = BredVectors(0.1, WhiteNoise(0.1), cycles=2)
    return Ensemble(networks[0], cross(3, 5), parameters=networks, perturbation=bred, rows=4)


def fail(mode: str) -> None:
    """Let the first process fail as it makes the folder."""

    def create(*_: object, **__: object) -> None:
        raise OutputError("the disk is full") if mode == "archive-full" else ValueError("no such codec")

    archiving.create = create  # type: ignore[assignment]


def main(mode: str, folder: Path) -> None:
    """Run a mode; what was lost is written to FOLDER/lost-RANK.txt, what else went wrong to FOLDER/failed-RANK.txt."""
    with launched(timeout=60) as here:
        last = here.rank == here.size - 1
        run: Any = {"state": ANALYSES[-1], "leads": LEADS, "past": ANALYSES[:-1]}
        try:
            if mode.startswith("gathered"):
                found = {}
                for lead, x in gathered(ensemble(), **run):
                    found[str(lead)] = x.clone()
                    if mode == "gathered-lost" and last and lead == 1:
                        os._exit(0)
                if here.rank == 0:
                    save_file(found, folder / "gathered.safetensors")
            else:
                if here.rank == 0 and mode in ("archive-full", "archive-broken"):
                    fail(mode)

                def progress(first: int, stop: int, lead: int) -> None:
                    if mode == "archive-lost" and last and lead == 2:
                        os._exit(0)

                archive(ensemble(), folder / "archive", progress=progress, **run)
        except MembersMissing as error:
            (folder / f"lost-{here.rank}.txt").write_text(str(error))
        except Exception as error:
            (folder / f"failed-{here.rank}.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
