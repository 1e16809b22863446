"""Damaged files are read, or refused with one error of ours: no other error, no hang, no memory beyond a cap."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dtheta.errors import DthetaError
from tests.hardening.limits import address_space, processor_time
from tests.hardening.mutations import damaged, twisted_text
from tests.hardening.readers import READERS

_TRACED = 1 << 26  # bytes of Python's and NumPy's memory that reading a file of some kilobytes may take
_RESERVED = 1 << 30  # and of address space, in which a claimed length of 2**31 bytes or more finds no place
_EXAMPLES = int(os.environ.get("DTHETA_FUZZ_EXAMPLES", "15"))  # of each reader and kind; more by hand
_QUICK = settings(
    max_examples=_EXAMPLES,
    phases=[Phase.explicit, Phase.generate],  # a fault among bytes is seldom clearer for being smaller
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
_cases = [(name, "bytes") for name, one in READERS.items() if one.other] + [
    (name, "values") for name, one in READERS.items() if one.json
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return where a valid folder of a reader lies, made once."""

    @cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        READERS[name].make(folder)
        READERS[name].read(folder)  # what is imported or made on first use is there
        return folder

    return made


@contextmanager
def _watched() -> Iterator[None]:
    tracemalloc.start()
    try:
        with processor_time(30), address_space(_RESERVED):
            yield
        assert tracemalloc.get_traced_memory()[1] < _TRACED
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "how"), _cases)
@_QUICK
@given(data=st.data())
def test_damage_is_read_or_refused(place: Callable[[str], Path], name: str, how: str, data: st.DataObject) -> None:
    reader, folder = READERS[name], place(name)
    file = folder / data.draw(st.sampled_from(reader.json if how == "values" else reader.other))
    whole = _snapshot(folder)
    before = file.read_bytes()
    file.write_bytes(data.draw((twisted_text if how == "values" else damaged)(before)))
    if file.read_bytes() == before:
        return
    try:
        with _watched():
            found = reader.read(folder)
    except DthetaError as error:
        assert str(error).strip() and "\n\n" not in str(error)  # noqa: PT017
    else:
        _restore(folder, whole)
        assert not reader.sealed or found == reader.read(folder)
    finally:
        _restore(folder, whole)


def _snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _restore(folder: Path, whole: dict[Path, bytes]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path not in whole:
            path.unlink()
    for path, content in whole.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
