from __future__ import annotations

import io
import sys

import pytest

from dtheta.fit.progress import Bar, Log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [False, True])
def test_a_bar_shows_on_a_terminal_unless_quiet(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    bar = Bar(4, 1, quiet)
    bar.scores({"accuracy": 0.75})
    bar.step(1.5)
    bar.close()
    shown = terminal.getvalue()
    assert (shown == "") == quiet
    if not quiet:
        assert "2/4" in shown
        assert "loss 1.5  eval accuracy 0.75" in shown


def test_a_log_without_a_path_writes_nothing() -> None:
    log = Log(None, None)
    log.write("step", 1, loss=0.5)
    log.close()
