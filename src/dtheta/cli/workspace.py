"""Workspace: the folder beside an output in which an interrupted run waits to be resumed.

It holds one checkpoint (fit/checkpoint.py) and nothing else. What ends without one leaves no folder; what ends with one
says what to do with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtheta.errors import NonFinite, OutputError


def workspace(out: Path) -> Path:
    """Return the place of the folder that goes with an output."""
    return out.with_name(f"{out.name}.run")


def require_workspace(work: Path, resume: bool) -> None:
    """Raise unless a run may begin, or go on, in a folder.

    Raises:
        OutputError: If an interrupted run waits there and is not to be resumed, or something of the user's lies there.
    """
    if not work.exists():
        return
    if not work.is_dir() or _others(work):
        raise OutputError(f"{work} is in the way: it is no folder of an interrupted run; choose another --out")
    if _holds_run(work) and not resume:
        raise OutputError(f"{work} holds an interrupted run: go on with --resume, or remove it to start anew")


@contextmanager
def kept_for_later(work: Path) -> Iterator[None]:
    """Run a block that trains in the folder, which is gone after it, or holds a run of which the error speaks."""
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
