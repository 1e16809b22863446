"""Locks between processes, as far as the system and the file system have any; a process that ends holds none."""

from __future__ import annotations

from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has none: there, nothing keeps two processes apart
    fcntl = None


def lock(handle: int | IO[Any], *, wait: bool = True, record: bool = False) -> bool:
    """Lock an open file or folder for this process, until it is closed; False where another process holds it.

    Args:
        handle: What is open; a file open for writing for a record lock.
        wait: Whether to wait for another process, so that it is never False.
        record: Whether it is a record lock, which processes that this one starts do not inherit.
    """
    if fcntl is None:
        return True
    take, held = (fcntl.lockf, (BlockingIOError, PermissionError)) if record else (fcntl.flock, (BlockingIOError,))
    try:
        take(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except held:
        return False
    except OSError:
        pass  # some network file systems have no locks
    return True
