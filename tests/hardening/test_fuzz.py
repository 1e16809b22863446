"""Damaged files are read, or refused with one error of ours: no other error, no hang, no memory beyond a cap."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hardening.attempt import read_or_refused
from tests.hardening.mutations import damaged, twisted_text
from tests.hardening.readers import READERS

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


@pytest.mark.parametrize(("name", "how"), _cases)
@_QUICK
@given(data=st.data())
def test_damage_is_read_or_refused(place: Callable[[str], Path], name: str, how: str, data: st.DataObject) -> None:
    reader, folder = READERS[name], place(name)
    file = folder / data.draw(st.sampled_from(reader.json if how == "values" else reader.other))
    before = file.read_bytes()
    content = data.draw((twisted_text if how == "values" else damaged)(before))
    if content != before:
        read_or_refused(reader, folder, file, content)
