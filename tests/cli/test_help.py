"""The help texts, word for word: a change of the command line shows in review.

``DTHETA_UPDATE=1 pytest tests/cli/test_help.py`` writes them anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.cli.verbs import VERBS
from tests.cli.conftest import Outcome

SNAPSHOTS = Path(__file__).parent / "help"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_as_it_was(dtheta: Callable[..., Outcome], verb: str) -> None:
    text = dtheta(*([verb] if verb else []), "--help").out
    snapshot = SNAPSHOTS / f"{verb or 'dtheta'}.txt"
    if os.environ.get("DTHETA_UPDATE") == "1":
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(text)
    assert text == snapshot.read_text()
    assert max(map(len, text.splitlines())) <= 120
