"""Dispatch, exit codes, and what happens when the world interferes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta import __version__
from dtheta.cli import main as entry
from dtheta.cli.verbs import ACTIONS, GROUPS, VERBS
from dtheta.errors import BaseMismatch, ConfigError, DthetaError, MissingExtra
from tests.cli.conftest import Outcome, interruptible, spawn

Run = Callable[..., Outcome]
HELPS = [*([verb, "--help"] for verb in VERBS), *([v, a, "--help"] for v, some in ACTIONS.items() for a in some)]
HEAVY = ("torch", "numpy", "transformers", "rich", "accelerate", "yaml", "jinja2")


def test_every_verb_is_in_one_group_and_has_its_file() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(VERBS)
    folder = Path(entry.__file__).parent
    assert all((folder / f"{verb}.py").is_file() for verb in VERBS)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], *HELPS])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from dtheta.cli.main import main
main({arguments!r})
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = spawn(code=code)
    assert done.returncode == 0, done.stderr


def test_no_verb_is_a_usage_error_with_the_overview_on_stderr(dtheta: Run) -> None:
    done = dtheta()
    assert (done.code, done.out) == (2, "")
    assert "demo" in done.err


def test_help_of_a_verb_by_word(dtheta: Run) -> None:
    assert dtheta("help", "show").out == dtheta("show", "--help").out


def test_version(dtheta: Run) -> None:
    assert dtheta("--version").out == f"dtheta {__version__}\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dtheta", "shwo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "show" in done.stderr


def test_unknown_verb_names_the_nearest(dtheta: Run) -> None:
    done = dtheta("adpat")
    assert done.code == 2
    assert "'adapt'" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"), [(DthetaError("x"), 1), (ConfigError("x"), 2), (BaseMismatch("x"), 3), (MissingExtra("x"), 1)]
)
def test_errors_of_ours_become_exit_codes(
    dtheta: Run, monkeypatch: pytest.MonkeyPatch, error: DthetaError, code: int
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("dtheta.cli.show.run", fail)
    done = dtheta("show", "anything")
    assert (done.code, done.out, done.err) == (code, "", "dtheta show: x\n")


def test_debugging_adds_the_traceback(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTHETA_DEBUG", "1")
    assert "Traceback" in dtheta("show", "missing.delta").err
    monkeypatch.delenv("DTHETA_DEBUG")
    assert "Traceback" not in dtheta("show", "missing.delta").err


def test_interrupt(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("dtheta.cli.show.run", interrupt)
    done = dtheta("show", "anything")
    assert (done.code, done.err) == (130, "dtheta show: interrupted\n")


def test_a_full_disk_anywhere_is_one_line(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> int:
        raise OSError(28, "No space left on device", "/somewhere/file")

    monkeypatch.setattr("dtheta.cli.show.run", fill)
    done = dtheta("show", "anything")
    assert (done.code, done.err) == (1, "dtheta show: /somewhere/file: No space left on device\n")


def test_a_bug_shows_its_traceback(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("dtheta.cli.show.run", fail)
    with pytest.raises(ZeroDivisionError):
        dtheta("show", "anything")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_nobody_reads_the_output(adapted: Path) -> None:
    command = f"{sys.executable} -m dtheta.cli.main show {adapted} --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.strip() in ("141", "0")  # 0 where all of it fit into the pipe before its reader was gone
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
@pytest.mark.slow
@pytest.mark.parametrize(("sign", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_killed_while_training_leaves_no_half_file(
    folders: dict[str, Path], table: Path, tmp_path: Path, sign: str, code: int
) -> None:
    out = tmp_path / "x.delta"
    command = [sys.executable, "-m", "dtheta.cli.main", "adapt", "--model", folders["bert"], "--data", table]
    command += ["--out", out, "--rank", 4, "--steps", 100_000, "--max-length", 16]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [str(c) for c in command], stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=interruptible
    ) as process:
        try:
            assert process.stderr is not None
            while "training" not in process.stderr.readline():
                assert process.poll() is None, "it ended before it trained"
            time.sleep(0.5)
            process.send_signal(getattr(signal, sign))
            assert process.wait(60) == code
        finally:
            process.kill()
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()} - {table.name}
    assert not out.exists()
    assert not [name for name in left if name.endswith(".part")]


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
@pytest.mark.parametrize(("sign", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_what_ends_a_process_unwinds_it(dtheta: Run, monkeypatch: pytest.MonkeyPatch, sign: str, code: int) -> None:
    left: list[int] = []

    def ended(*_: object) -> int:
        try:
            os.kill(os.getpid(), getattr(signal, sign))
            time.sleep(10)
        finally:
            left.append(code)
        return 0

    monkeypatch.setattr("dtheta.cli.show.run", ended)
    number = getattr(signal, sign)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        assert dtheta("show", "anything").code == code and left == [code]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_what_nohup_ignores_stays_ignored(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr("dtheta.cli.show.run", closed)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert dtheta("show", "anything").code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_letters_that_stdout_cannot_carry_are_escaped(adapted: Path, tmp_path: Path, json_too: list[str]) -> None:
    """A code page of few letters, as of a Windows console or a bare container, is no reason to fail."""
    shutil.copy(adapted, tmp_path / "caf\u00e9.delta")
    done = spawn("show", "caf\u00e9.delta", *json_too, env={"PYTHONIOENCODING": "ascii"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if json_too:
        assert json.loads(done.stdout)["file"] == "caf\u00e9.delta"
    else:
        assert done.stdout.startswith("caf\\xe9.delta: a delta")
