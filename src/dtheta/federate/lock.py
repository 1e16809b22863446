"""Lock: the folder of a federation belongs to one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dtheta.core.locks import lock
from dtheta.errors import ConfigError, OutputError

LOCK = "lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder for this process alone, as long as the block runs, or the process.

    A record lock: the processes of clients do not inherit it, so one that outlives a killed server holds nothing up.

    Raises:
        ConfigError: If another process runs a federation in it.
        OutputError: If it cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("ab")
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
    with handle:
        if not lock(handle, wait=False, record=True):
            raise ConfigError(f"another process runs a federation in {folder}; wait for it, or take another")
        yield
