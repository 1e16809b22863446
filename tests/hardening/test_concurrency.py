"""Processes that write one file at once, and one that reads meanwhile: every look finds one whole version."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.core.factorfile import load_stored
from dtheta.core.files import load
from dtheta.reproduce.runs import Runs
from tests.hardening.writers import WRITERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are copies of this one")
_TIMES = 15


def _apart(run: Callable[[], object]) -> int:
    """Start a copy of this process that does something and ends; its exit code is 0 where that went well."""
    child = os.fork()
    if not child:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    return child


def _ended(children: list[int]) -> bool:
    """Tell whether all ended, taking those that did from the list; one that failed fails here."""
    for child in list(children):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0
            children.remove(child)
    return not children


def test_two_writers_of_one_delta_and_a_reader(tmp_path: Path) -> None:
    write = WRITERS["delta"].write
    known = set()
    for version in (1, 0):
        write(tmp_path, version)
        known.add(load(tmp_path / "a.delta").digest)
    children = [_apart(lambda v=v: [write(tmp_path, v) for _ in range(_TIMES)]) for v in (0, 1)]
    looks = 0
    while not _ended(children) or not looks:
        assert load(tmp_path / "a.delta").digest in known
        looks += 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.delta"]


def test_two_writers_of_one_entry_of_the_cache_and_a_reader(tmp_path: Path) -> None:
    write = WRITERS["factors"].write
    write(tmp_path, 0)
    children = [_apart(lambda v=v: [write(tmp_path, v) for _ in range(_TIMES)]) for v in (0, 1)]
    looks = found = 0
    while not _ended(children) or not looks:
        found += len(load_stored(tmp_path, "r", ["d"], 3))  # nothing, at worst, where it was written anew meanwhile
        looks += 1
    assert found and len(load_stored(tmp_path, "r", ["d"], 3)) == 1 and len(list(tmp_path.iterdir())) == 1


def test_two_reproductions_in_one_folder_and_a_third_that_begins(tmp_path: Path) -> None:
    """No record is lost, none is glued to another, though each is longer than a write of the system's."""
    path = tmp_path / "x.runs.jsonl"

    def add(who: int) -> None:
        runs = Runs(path, ("who", "seed"))
        for seed in range(_TIMES):
            runs.get((who, seed), lambda: {"value": "x" * 100_000})

    children = [_apart(lambda who=who: add(who)) for who in range(2)]
    while not _ended(children):
        assert all(len(run["value"]) == 100_000 for run in Runs(path, ("who", "seed")).done.values())
    assert set(Runs(path, ("who", "seed")).done) == {(who, seed) for who in range(2) for seed in range(_TIMES)}
