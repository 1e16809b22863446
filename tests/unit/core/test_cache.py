"""The cache: folders appear complete or not at all, once, whoever else is building."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dtheta.core.cache import build_once, cache_dir
from dtheta.errors import OutputError


def test_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    assert cache_dir("models", "x") == tmp_path / "here" / "models" / "x"
    assert not (tmp_path / "here").exists()
    monkeypatch.setenv("DTHETA_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "dtheta"


def test_builds_once(tmp_path):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("1")

    for _ in range(2):
        assert build_once(tmp_path / "a" / "b", build) == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"
    assert len(calls) == 1


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "b", build)
    assert [path.name for path in tmp_path.iterdir()] == [".b.lock"]


def test_an_invalid_folder_is_replaced(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("")
    build_once(tmp_path / "b", lambda folder: (folder / "new").touch(), lambda folder: (folder / "new").exists())
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["new"]


def test_concurrent_builders_do_the_work_once(tmp_path):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.05)
        (folder / "x").write_text("1")

    threads = [threading.Thread(target=build_once, args=(tmp_path / "b", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (tmp_path / "b" / "x").exists()


def test_without_locks_the_first_rename_wins(tmp_path, monkeypatch):
    monkeypatch.setattr("dtheta.core.locks.fcntl", None)

    def build(folder: Path) -> None:
        if not (tmp_path / "b").exists():
            build_once(tmp_path / "b", build_other)
        (folder / "late").touch()

    def build_other(folder: Path) -> None:
        (folder / "early").touch()

    build_once(tmp_path / "b", build)
    assert len(list((tmp_path / "b").iterdir())) == 1


def test_an_unwritable_cache_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="DTHETA_CACHE"):
        build_once(tmp_path / "file" / "b", lambda folder: None)
