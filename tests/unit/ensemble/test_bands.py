"""Scores of several processes, each with a band of rows and all members, are those of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dtheta.ensemble.bands import banded, rows_of, summed
from tests.unit.ensemble.distributed.verifier import LEADS, fields, verification

WORKER = Path(__file__).parent / "distributed" / "verifier.py"


def run(folder: Path, size: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, folder], env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote."""
    found = tmp_path_factory.mktemp("two")
    run(found, 2)
    return found


def require_scores_of_one(folder: Path) -> None:
    alone = verification()
    for lead in LEADS:
        alone.update(0, lead, *fields(lead))
    ours, theirs = (
        alone.result(resamples=2).to_dict()["scores"],
        json.loads((folder / "scores.json").read_text())["scores"],
    )
    assert len(ours) == len(theirs) > 40
    for one, other in zip(ours, theirs, strict=True):
        assert (one["metric"], one["channel"], one["lead"]) == (other["metric"], other["channel"], other["lead"])
        values = [np.array(score["value"], dtype=float) for score in (one, other)]
        np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-12)


def test_two_processes_give_the_scores_of_one(folder: Path) -> None:
    require_scores_of_one(folder)


@pytest.mark.slow
def test_four_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    run(tmp_path, 4)
    require_scores_of_one(tmp_path)


def test_what_processes_do_not_share_is_refused_by_all(folder: Path) -> None:
    for rank in range(2):
        shapes, dimensions, few, counted, fewer = json.loads((folder / f"said-{rank}.json").read_text())
        assert "other numbers of members" in fewer
        assert "states of different shapes" in shapes and "states of different shapes" in dimensions
        assert "1 rows cannot be dealt over 2 processes" in few and "counted other starts or leads" in counted


def test_one_process_has_all_rows() -> None:
    x = torch.zeros(3, 2, 5, 4)
    rows, band = banded(x)
    assert rows == (0, 5) and band is x
    alone = verification()
    assert summed(alone) is alone


def test_rows_are_dealt_once() -> None:
    for size in range(1, 8):
        bands = [rows_of(7, rank, size) for rank in range(size)]
        assert [row for a, b in bands for row in range(a, b)] == list(range(7))
        assert all(b > a for a, b in bands)
