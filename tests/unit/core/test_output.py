"""Outputs appear complete or not at all, and nothing half-written stays behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.core import output
from dtheta.core.output import require_space, write_file, write_folder
from dtheta.errors import OutputError


def _failing(code: int) -> Callable[..., None]:
    def fail(*arguments: object, **keywords: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    with write_file(target) as handle:
        handle.write(b"new")
        handle.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target]


def test_names_are_counted_in_bytes_and_may_be_as_long_as_the_system_takes(tmp_path: Path) -> None:
    for name in ("漢" * 80 + ".delta", "é" * 127, "a" * 255):
        with write_file(tmp_path / name) as handle:
            handle.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a" * 300])
def test_a_name_that_no_system_takes(tmp_path: Path, name: str) -> None:
    for write in (write_file, write_folder):
        with pytest.raises(OutputError, match="cannot write"), write(tmp_path / name):
            pass
    assert list(tmp_path.iterdir()) == []


def test_permissions_follow_the_users_mask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with write_file(tmp_path / "a") as handle:
            handle.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError("inside"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    with pytest.raises(type(error)):  # noqa: PT012
        with write_file(target) as handle:
            handle.write(b"half")
            raise error
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_system_errors_become_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    monkeypatch.setattr(output.os, step, _failing(code))
    with pytest.raises(OutputError, match=os.strerror(code)) as error, write_file(tmp_path / "a") as handle:
        handle.write(b"x")
    assert "free some space" in str(error.value) and list(tmp_path.iterdir()) == []


def test_disk_full_while_writing(tmp_path: Path) -> None:
    """A real full disk: the file size limit of this process raises the same error from the same call."""
    resource = pytest.importorskip("resource")
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OutputError, match="cannot write"), write_file(tmp_path / "a") as handle:
            handle.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for target, message in [
        (tmp_path / "results", "it is a folder"),
        (tmp_path / "resluts" / "a.delta", "did you mean 'results'.*create it first"),
        (Path("/dev/null"), "not a regular file"),
        (Path("/"), "no name"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        with pytest.raises(OutputError, match=message), write_file(target) as handle:
            handle.write(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["results"]
    assert Path("/dev/null").is_char_device()


def test_a_long_name_that_fits_is_written(tmp_path: Path) -> None:
    with write_file(tmp_path / ("x" * 255)) as handle:
        handle.write(b"x")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"x"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with write_file(tmp_path / "link") as handle:
        handle.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_folder_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with write_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_bytes(b"x")
        assert not target.exists()
    assert (target / "inner" / "a").read_bytes() == b"x" and list(tmp_path.iterdir()) == [target]
    with pytest.raises(OutputError, match="it exists"), write_folder(target):
        pass
    with pytest.raises(ValueError, match="inside"):  # noqa: PT012
        with write_folder(tmp_path / "other") as folder:
            (folder / "a").write_bytes(b"x")
            raise ValueError("inside")
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "empty").mkdir()
    with write_folder(tmp_path / "empty") as folder:
        (folder / "a").write_bytes(b"x")
    assert (tmp_path / "empty" / "a").exists()


def test_space_is_checked_beforehand(tmp_path: Path) -> None:
    require_space(tmp_path / "a", 1)
    with pytest.raises(OutputError, match=r"takes 1,000,000,000,000,000,000 bytes and the disk has"):
        require_space(tmp_path / "a", 10**18)
