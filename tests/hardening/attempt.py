"""One attempt to read a damaged file: it is read, or refused with one error of ours, within limits."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from dtheta.errors import DthetaError
from tests.hardening.limits import address_space, processor_time
from tests.hardening.readers import Reader

_TRACED = 1 << 26  # bytes of Python's and NumPy's memory that reading a file of some kilobytes may take
_RESERVED = 1 << 30  # and of address space, in which a claimed length of 2**31 bytes or more finds no place


def read_or_refused(reader: Reader, folder: Path, file: Path, content: bytes, *, traced: bool = True) -> None:
    """Read a valid folder with other content in one of its files, which is put back afterwards.

    Args:
        reader: How the folder is read.
        folder: The folder.
        file: The file in it.
        content: What this file holds instead.
        traced: Whether Python's memory counts, too, which takes several times as long.

    Raises:
        AssertionError: If that took too much memory, the message says nothing, or a sealed file was read as another.
        Hung: If it took too long.
        Exception: Any other that the reader raises, except a `DthetaError`.
    """
    whole = snapshot(folder)
    file.write_bytes(content)
    try:
        with processor_time(30), _traced() if traced else contextlib.nullcontext(), address_space(_RESERVED):
            found = reader.read(folder)
    except DthetaError as error:
        assert str(error).strip() and "\n\n" not in str(error)  # noqa: PT017
    else:
        restore(folder, whole)
        assert not reader.sealed or found == reader.read(folder)
    finally:
        restore(folder, whole)


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < _TRACED
    finally:
        tracemalloc.stop()


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore(folder: Path, whole: dict[Path, bytes]) -> None:
    """Make a folder hold again what it held."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in whole:
            path.unlink()
    for path, content in whole.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
