"""The cache on disk: where it lives, and how a folder appears in it complete or not at all.

    $DTHETA_CACHE, else ~/.cache/dtheta
    |-- packages/   unpacked packages that carry models and data
    |-- models/     models converted once (GGUF to a Hugging Face folder)
    |-- factors/    singular value decompositions, by digest of the weight
    `-- data/       data computed once

A folder is built beside its place and renamed into it, so a killed process leaves no half folder behind and two
processes never see each other's work in progress. A lock keeps the second process from doing the same work; it saves
time only: where locks do not exist, both build and one rename wins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dtheta.core.locks import lock
from dtheta.core.paths import expanded
from dtheta.errors import OutputError


def cache_dir(*parts: str) -> Path:
    """Return the cache folder, or the path of ``parts`` inside it; nothing is created.

    The root is ``$DTHETA_CACHE`` where that is set and not empty, else ``~/.cache/dtheta``.
    """
    root = os.environ.get("DTHETA_CACHE") or "~/.cache/dtheta"
    return expanded(root).absolute().joinpath(*parts)


def build_once(target: Path, build: Callable[[Path], None], valid: Callable[[Path], bool] = Path.is_dir) -> Path:
    """Return the folder ``target``, filled by ``build(folder)`` unless it is there and ``valid`` already.

    ``build`` gets an empty folder beside ``target``; when it returns, that folder is renamed into place. When it
    raises, nothing of it stays. A folder that is there but not ``valid`` is replaced.

    Raises:
        OutputError: the cache cannot be written (permissions, disk full).
    """
    if valid(target):
        return target
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if not valid(target):
                _build(target, build)
    return target


def _build(target: Path, build: Callable[[Path], None]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        folder = aside / target.name  # mkdtemp's own folder is private; this one follows the user's umask
        folder.mkdir()
        build(folder)
        if target.exists():
            shutil.rmtree(target)
        _rename(folder, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():  # else another process, without locks, was first: its work is as good as ours
            raise


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    with target.with_name(f".{target.name}.lock").open("ab") as handle:
        lock(handle)
        yield


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {target} in the cache: {error.strerror or error}. "
            f"Free some space or make {cache_dir()} writable, or set DTHETA_CACHE to another folder."
        ) from error
