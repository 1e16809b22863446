"""Workspace: the folder beside an output in which an interrupted run waits to be resumed.

It holds one checkpoint (fit/checkpoint.py) and nothing else. What ends without one leaves no folder; what ends with one
says what to do with it. One process at a time works in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtheta.core.locks import lock
from dtheta.errors import NonFinite, OutputError


def workspace(out: Path) -> Path:
    """Return the place of the folder that goes with an output."""
    return out.with_name(f"{out.name}.run")


def require_workspace(work: Path, resume: bool) -> None:
    """Raise unless a run may begin, or go on, in a folder.

    Raises:
        OutputError: If an interrupted run waits there and is not to be resumed, something of the user's lies there, or
            another process works there.
    """
    if not work.exists():
        return
    if not work.is_dir() or _others(work):
        raise OutputError(f"{work} is in the way: it is no folder of an interrupted run; choose another --out")
    with held(work):
        pass
    if _holds_run(work) and not resume:
        raise OutputError(f"{work} holds an interrupted run: go on with --resume, or remove it to start anew")


@contextmanager
def held(work: Path) -> Iterator[None]:
    """Hold a folder for this process alone, as long as the block runs, or the process.

    The folder itself is locked, so that nothing more lies in it, and a killed process holds nothing up.

    Raises:
        OutputError: If another process holds it.
    """
    if os.name == "nt":  # where a folder cannot be opened
        yield
        return
    handle = os.open(work, os.O_RDONLY)
    try:
        if not lock(handle, wait=False):
            raise OutputError(f"another process is writing to {work}: wait for it, or choose another --out")
        yield
    finally:
        os.close(handle)


@contextmanager
def kept_for_later(work: Path) -> Iterator[None]:
    """Run a block that trains in the folder, which is gone after it, or holds a run of which the error speaks.

    Raises:
        OutputError: If another process works in it.
    """
    from dtheta.fit.checkpoint import make_folder

    with held(make_folder(work)), _left_for_later(work):
        yield


@contextmanager
def _left_for_later(work: Path) -> Iterator[None]:
    """Run a block after which the folder is gone, or holds a run of which the error speaks."""
    try:
        yield
    except NonFinite as error:
        if _holds_run(work):
            left = f"; remove {work}, which holds the run before that, to start anew with other options"
            raise NonFinite(f"{error}{left}") from None
        raise
    except KeyboardInterrupt:
        if _holds_run(work):
            raise KeyboardInterrupt(f"; {work} holds the run so far: go on with --resume") from None
        raise
    finally:
        if work.is_dir() and not _holds_run(work) and not _others(work):
            shutil.rmtree(work, ignore_errors=True)


def clear(work: Path) -> None:
    """Remove the folder of a run that is complete."""
    if work.is_dir() and not _others(work):
        shutil.rmtree(work, ignore_errors=True)


def _holds_run(work: Path) -> bool:
    from dtheta.fit.checkpoint import NAME

    return (work / NAME).exists()


def _others(work: Path) -> list[Path]:
    """Return what lies in the folder and is neither a checkpoint nor one that was being written."""
    from dtheta.fit.checkpoint import NAME

    return [p for p in work.iterdir() if p.name != NAME and not p.name.endswith(".part")]
