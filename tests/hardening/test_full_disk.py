"""A disk that is full or may not be written: one clear error, the earlier file as it was, nothing half-written."""

from __future__ import annotations

import errno
import io
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from dtheta.errors import DthetaWarning, OutputError
from tests.hardening.limits import file_size
from tests.hardening.writers import WRITERS, Writer, content


def _begun(writer: Writer, folder: Path) -> set[Path]:
    writer.before(folder)
    if writer.replaces:
        writer.write(folder, 0)
    return set(folder.rglob("*"))


def _refuses(name: str, writer: Writer, folder: Path, said: str) -> None:
    """A writer says that it cannot write; the cache of factors, which is no result, warns and goes on."""
    if name == "factors":
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            writer.write(folder, 1)
        assert any(issubclass(one.category, DthetaWarning) and said in str(one.message) for one in told)
        return
    with pytest.raises(OutputError, match=said) as error:
        writer.write(folder, 1)
    assert "free some space" in str(error.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    there = _begun(writer, tmp_path)
    before = content(tmp_path / writer.name)
    largest = len((before or {}).get("", b"")) if writer.name == "x.runs.jsonl" else 0
    with file_size(largest + 100):
        _refuses(name, writer, tmp_path, "File too large")
    assert content(tmp_path / writer.name) == before and set(tmp_path.rglob("*")) == there
    writer.write(tmp_path, 1)
    writer.read(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_read_only(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bind every user, so the calls themselves fail here as on such a disk."""
    writer = WRITERS[name]
    there = _begun(writer, tmp_path)
    before = content(tmp_path / writer.name)
    real = io.open

    def refuse(path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if set(mode) & set("wxa+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, mode, *args, **named)

    def refuse_folder(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refuse)
        patch.setattr(os, "mkdir", refuse_folder)
        _refuses(name, writer, tmp_path, "Read-only file system")
    assert content(tmp_path / writer.name) == before and set(tmp_path.rglob("*")) == there
