"""Outputs appear complete or not at all: written aside in the same folder, flushed to disk, then renamed.

A reader never sees half a file, and a full disk or a killed process leaves the old file as it was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dtheta.core.paths import expanded
from dtheta.errors import OutputError, did_you_mean


@contextlib.contextmanager
def write_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that becomes ``path`` when the block ends; an existing file is replaced, a link followed.

    Raises:
        OutputError: If it cannot be written (no folder, no permission, disk full, ``path`` is no regular file).
        ConfigError: If it begins with ``~`` and there is no such user.
    """
    target = _target(path)
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"cannot write {target}: it is {kind}; give the name of a file")
    aside = _aside(target)
    try:
        with _writing(target):
            with aside.open("xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(aside, target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that becomes ``path`` when the block ends; ``path`` must not exist, or be an empty folder.

    Raises:
        OutputError: If it cannot be written, or something is there.
        ConfigError: If it begins with ``~`` and there is no such user.
    """
    target = _target(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"cannot write the folder {target}: it exists; remove it or choose another name")
    aside = _aside(target)
    try:
        with _writing(target):
            aside.mkdir()
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    _sync(file)
            os.replace(aside, target)
            _sync_folder(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def require_space(path: Path, nbytes: int) -> None:
    """Raise before anything is written if the disk of ``path`` has less than ``nbytes`` left.

    Raises:
        OutputError: Saying how much is missing.
    """
    with _writing(path):
        free = shutil.disk_usage(_target(path).parent).free
    if free < nbytes:
        raise OutputError(
            f"cannot write {path}: it takes {nbytes:,} bytes and the disk has {free:,} left; "
            "free some space or write to another disk"
        )


def _target(path: str | os.PathLike[str]) -> Path:
    target = expanded(path)
    try:
        with _writing(target):
            target = target.resolve() if target.is_symlink() else target.absolute()
            folder = target.parent
            is_folder = folder.is_dir()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(target)  # a name that the system cannot take fails here, before anything is written
    except ValueError as error:  # a zero byte, half a character
        raise OutputError(f"cannot write {str(path)!r}: {error}; choose another name") from None
    if not target.name:
        raise OutputError(f"cannot write {path}: it has no name")
    if not is_folder:
        near = did_you_mean(folder.name, [p.name for p in _siblings(folder)])
        raise OutputError(f"cannot write {path}: there is no folder {folder}{near}; create it first")
    return target


def _siblings(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [p for p in folder.parent.iterdir() if p.is_dir()]
    return []


def _aside(target: Path) -> Path:
    # cut in bytes, which is what systems count, so that a long name still fits beside its own temporary file
    name = os.fsencode(target.name)[:100].decode(errors="ignore")
    return target.with_name(f".{name}.{secrets.token_hex(6)}.part")


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}. Nothing was left behind; free some space, or choose "
            "a folder that you may write to"
        ) from error


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and needs no such call
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
