"""One planted system in place of the twelve."""

from __future__ import annotations

import sys

import pytest

from tests.unit.reproduce import planted as planted_system


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Register it as the only system; return what it runs."""
    monkeypatch.setattr("dtheta.reproduce.systems.SYSTEMS", {"planted": "planted"})
    monkeypatch.setattr("dtheta.reproduce.reproduce.SYSTEMS", {"planted": "planted"})
    monkeypatch.setitem(sys.modules, "dtheta.reproduce.systems.planted", planted_system)
    planted_system.MADE.clear()
    return planted_system.MADE
