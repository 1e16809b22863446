"""``dtheta report DIR --serve``: a process that serves until it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from tests.cli.conftest import Outcome, interruptible

Run = Callable[..., Outcome]


def test_it_serves_until_ctrl_c_and_ends_well(tmp_path: Path) -> None:
    Delta({"w": Dense(torch.ones(2, 2))}).save(tmp_path / "x.delta")
    threads = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dtheta.cli.main", "report", str(tmp_path), "--serve"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=threads, preexec_fn=interruptible)
    try:
        assert done.stdout is not None
        address = next(word for word in done.stdout.readline().split() if word.startswith("http://127.0.0.1:"))
        with urllib.request.urlopen(address, timeout=60) as page:
            assert "<h1>x</h1>" in page.read().decode()
        done.send_signal(signal.SIGINT)
        assert done.wait(60) == 0
    finally:
        done.kill()
        done.communicate()
    assert [file.name for file in tmp_path.iterdir()] == ["x.delta"]


@pytest.mark.parametrize(
    ("places", "message"),
    [((), "--serve takes one folder, found 0"), (("f", "f"), "--serve takes one folder, found 2"),
     (("f",), "is no folder"), (("none",), "there is no file none")],
)  # fmt: skip
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_it_refuses_what_is_no_folder(dtheta: Run, places: tuple[str, ...], message: str, more: list[str]) -> None:
    Path("f").write_text("")
    done = dtheta("report", *places, "--serve", *more)
    assert (done.code, done.out) == (2, "") and message in done.err


def test_a_dry_run_listens_to_nothing(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.report.serve.server", lambda *_: pytest.fail("it listens"))
    assert dtheta("report", ".", "--serve", "--dry-run").code == 0


def test_a_page_beside_serving_is_refused(dtheta: Run) -> None:
    done = dtheta("report", ".", "--serve", "--out", "page.html", "--dry-run")
    assert (done.code, done.out) == (2, "") and "--out names a page to write, and --serve writes none" in done.err


def test_a_port_without_serving_is_refused(dtheta: Run) -> None:
    Path("x.delta").write_text("")
    done = dtheta("report", "x.delta", "--port", "8080")
    assert (done.code, done.out) == (2, "") and "--port says where --serve listens" in done.err
