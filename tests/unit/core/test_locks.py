"""Locks keep processes apart, end with them, and are nothing where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dtheta.core.locks import lock

HOLD = """
import os, sys
from dtheta.core.locks import lock
handle = os.open(sys.argv[1], os.O_RDWR)
print(lock(handle, wait=False, record=sys.argv[2] == "record"), flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path, kind: str) -> Iterator[None]:
    """Another process holds a lock of a file as long as the block runs."""
    command = [sys.executable, "-c", HOLD, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        try:
            yield
        finally:
            other.kill()


@pytest.mark.parametrize("kind", ["record", "file"])
def test_a_lock_keeps_other_processes_out_until_its_own_has_ended(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    with path.open("ab") as handle:
        with holding(path, kind):
            assert not lock(handle, wait=False, record=kind == "record")
        assert lock(handle, wait=False, record=kind == "record")


def test_a_folder_can_be_locked(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    try:
        assert lock(first, wait=False) and not lock(second, wait=False)
        os.close(first)
        assert lock(second)
    finally:
        os.close(second)


def test_without_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.touch()
    with holding(path, "file"), path.open("ab") as handle:
        assert not lock(handle, wait=False)
        monkeypatch.setattr("dtheta.core.locks.fcntl", None)
        assert lock(handle, wait=False)
