"""The help texts, word for word: a change of the command line shows in review.

``DTHETA_UPDATE=1 pytest tests/cli/test_help.py`` writes them anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.cli.verbs import ACTIONS, VERBS
from tests.cli.conftest import Outcome

SNAPSHOTS = Path(__file__).parent / "help"


COMMANDS = ["", *VERBS, *(f"{verb} {action}" for verb, actions in ACTIONS.items() for action in actions)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_it_was(dtheta: Callable[..., Outcome], command: str) -> None:
    text = dtheta(*command.split(), "--help").out
    snapshot = SNAPSHOTS / f"{command.replace(' ', '_') or 'dtheta'}.txt"
    if os.environ.get("DTHETA_UPDATE") == "1":
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(text)
    assert text == snapshot.read_text()
    assert max(map(len, text.splitlines())) <= 120
