"""Places: what a command reads and writes, looked at before anything is computed.

An output that is an input, or another output, would be lost or read half: it is refused by its place on the disk,
whatever the two are called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, OutputError


def require_input(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder to read.

    Raises:
        ConfigError: If nothing is there, or something that is no file (a pipe, a device, a link to itself).
    """
    from dtheta.core.tensorfile import existing

    path = expanded(path)
    if _is_loop(path):
        raise ConfigError(f"cannot read {path}: it is a link that leads to itself")
    found = existing(path)
    if not (found.is_file() or found.is_dir()):
        raise ConfigError(f"cannot read {path}: it is not a regular file; save its content to a file first")
    return found


def require_outputs(writes: Mapping[str, Path | None], reads: Mapping[str, Path | None]) -> None:
    """Raise before anything is computed if files could not be written in the end, or would replace what is read.

    Args:
        writes: Places of the files to write, by what the user calls them; None where there is none.
        reads: Places of files and folders that are read, likewise; a folder stands for the files in it.

    Raises:
        OutputError: If a folder is missing or may not be written to, a place is a folder, or no regular file; if two
            places are one.
    """
    taken = {name: path for name, path in reads.items() if path is not None}
    wanted = {name: path for name, path in writes.items() if path is not None}
    for name, path in wanted.items():
        require_output(path)
        for other, place in taken.items():
            require_distinct(name, path, other, place)
        taken[name] = path


def require_distinct(name: str, path: Path, other: str, place: Path) -> None:
    """Raise if an output is another place, or a file in the folder that is that place.

    Raises:
        OutputError: Naming both.
    """
    inside = place.is_dir() and path.exists() and any(_same(path, file) for file in _files(place))
    if inside or _same(path, place):
        raise OutputError(
            f"cannot write {path} ({name}): {'it lies in' if inside else 'it is'} {place} ({other}); "
            "choose another name"
        )


def require_outside(name: str, path: Path, other: str, place: Path) -> None:
    """Raise if an output is another place, or would lie anywhere in the folder that is that place.

    For folders that are one thing, such as a zarr group: a file more in one is damage, too.

    Raises:
        OutputError: Naming both.
    """
    require_distinct(name, path, other, place)
    if place.is_dir() and Path(os.path.realpath(place)) in Path(os.path.realpath(path)).parents:
        raise OutputError(
            f"cannot write {path} ({name}): it would lie in {place} ({other}), which is read; choose another folder"
        )


def require_output(path: Path) -> None:
    """Raise before anything is computed if a file could not be written at ``path`` in the end.

    Raises:
        OutputError: If its folder is missing or may not be written to, or ``path`` is a folder or no regular file.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give the name of a file")
    if _is_loop(path) or (path.exists() and not path.is_file()):
        raise OutputError(f"cannot write {path}: it is not a regular file; choose another name")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}; choose another folder")


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder that is read; deltas that lie in it are none of the model's."""
    return [file for file in folder.iterdir() if file.is_file() and file.suffix != ".delta"]


def _same(a: Path, b: Path) -> bool:
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    try:
        return a.samefile(b)
    except OSError:  # one of the two is not there
        return False


def _is_loop(path: Path) -> bool:
    """Tell whether a link leads to itself; one that leads nowhere does not."""
    return os.path.islink(path) and os.path.islink(os.path.realpath(path))
