"""Two gloo processes give the bits of one; what a lost process had is named, and made by the run that goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dtheta.ensemble.archiving import archive
from dtheta.ensemble.sharded import gathered, launched, part, processes, ranges
from dtheta.ensemble.store import Missing, open_archive
from dtheta.errors import ConfigError
from tests.unit.ensemble.distributed.worker import ANALYSES, LEADS, ensemble

WORKER = Path(__file__).parent / "distributed" / "worker.py"
EXPECTED = dict(ensemble().run(ANALYSES[-1], LEADS, past=ANALYSES[:-1]))


def run(mode: str, folder: Path, size: int) -> None:
    """Run the worker on so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, mode, folder], env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gathered_members_have_the_bits_of_one_process(tmp_path: Path, size: int) -> None:
    run("gathered", tmp_path, size)
    found = load_file(tmp_path / "gathered.safetensors")
    assert all(torch.equal(found[str(lead)], x) for lead, x in EXPECTED.items())


def test_an_archive_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    run("archive", tmp_path, 2)
    found = open_archive(tmp_path / "archive")
    assert found.chunk < 30 and all(torch.equal(x, EXPECTED[lead]) for lead, x in found.states())


@pytest.mark.parametrize(
    ("mode", "own", "told"),
    [
        ("archive-full", "OutputError: the disk is full", "OutputError: {}the disk is full"),
        ("archive-broken", "ValueError: no such codec", "OutputError: {}ValueError('no such codec')"),
    ],
)
def test_the_others_say_how_the_first_process_failed(tmp_path: Path, mode: str, own: str, told: str) -> None:
    pytest.importorskip("zarr")
    run(mode, tmp_path, 2)
    assert (tmp_path / "failed-0.txt").read_text() == own
    first = "the first process of 2 failed, and this one, 1, with it: "
    assert (tmp_path / "failed-1.txt").read_text() == told.format(first)
    assert not (tmp_path / "archive").exists()


@pytest.mark.slow
def test_the_others_say_which_members_were_lost(tmp_path: Path) -> None:
    run("gathered-lost", tmp_path, 3)
    missing = part(ensemble(), 2, 3)
    for rank in (0, 1):
        text = (tmp_path / f"lost-{rank}.txt").read_text()
        assert text.startswith(f"process 2 of 3 was lost at lead 2, and with it {len(missing)} members: ")
        assert ranges(missing) in text
    again = dict(ensemble().only(missing).run(ANALYSES[-1], LEADS, past=ANALYSES[:-1]))
    assert torch.equal(again[LEADS], EXPECTED[LEADS][missing])


@pytest.mark.slow
def test_a_run_that_lost_a_process_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    run("archive-lost", tmp_path, 2)
    found = open_archive(tmp_path / "archive")
    gap = found.missing()
    assert len(gap) == 1 and gap[0] == Missing(gap[0].first, 30, (3, 4)) and gap[0].first > 0
    text = (tmp_path / "lost-0.txt").read_text()
    assert (
        f"{30 - gap[0].first} members lack leads: {gap[0].first} to 29" in text and "start the same run again" in text
    )
    archive(ensemble(), tmp_path / "archive", ANALYSES[-1], LEADS, past=ANALYSES[:-1])
    assert all(torch.equal(x, EXPECTED[lead]) for lead, x in found.states())


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_parts_are_whole_blocks_and_cover_every_member_once(size: int) -> None:
    parts = [part(ensemble(), rank, size) for rank in range(size)]
    assert sorted(index for one in parts for index in one) == list(range(30))
    held = [set(index for _, index in block.places) for block in ensemble().blocks]
    assert all(block <= set(one) or not block & set(one) for block in held for one in parts)


def test_one_process_is_the_ensemble_itself() -> None:
    assert processes().size == 1
    with launched() as here:
        assert here.size == 1
    found = dict(gathered(ensemble(), ANALYSES[-1], LEADS, past=ANALYSES[:-1]))
    assert torch.equal(found[LEADS], EXPECTED[LEADS])
    with pytest.raises(ConfigError, match="rank is 2"):
        part(ensemble(), 2, 2)


def test_numbers_are_written_as_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
