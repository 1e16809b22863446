"""The wheel, installed apart from the checkout, does what the first pages of the documentation say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import folders as folders
from tests.cli.conftest import sentences, write_table
from tests.release.conftest import ROOT, plain_environment

Command = Callable[..., subprocess.CompletedProcess[str]]
# An editable install is on the path of this interpreter; it is taken off before anything of ours is imported.
START = """
import sys
sys.path[:] = [{installed!r}, *(p for p in sys.path if not p.startswith({checkout!r}) or "site-packages" in p)]
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
import dtheta
assert dtheta.__file__.startswith({installed!r}), dtheta.__file__
"""


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Command:
    """Run a program in an empty folder, on the installed wheel."""
    start = START.format(installed=str(installed), checkout=str(ROOT))
    environment = plain_environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", DTHETA_NUMBA="0")  # no time to compile

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", start + program, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture
def dtheta(python: Command) -> Command:
    """Run a command of the installed wheel."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = python("from dtheta.cli.main import main; sys.exit(main())", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_its_data_are_found(python: Command) -> None:
    done = python("import dtheta as dt\nassert sum(p.numel() for p in dt.load_model('miniclip').parameters()) > 4e6")
    assert done.returncode == 0, done.stderr


def test_doctor_and_models(dtheta: Command) -> None:
    assert json.loads(dtheta("doctor", "--json").stdout)["ok"]
    assert "minilm" in dtheta("models").stdout


@pytest.mark.slow
def test_the_first_steps_of_the_tutorial_on_a_model_of_ones_own(
    dtheta: Command,
    tmp_path: Path,
    folders: dict[str, Path],
) -> None:
    write_table(tmp_path / "mine.csv", sentences(48))
    small = ["--steps", "3", "--max-length", "8", "--rank", "2", "--n-train", "24", "--n-test", "16"]
    own = ["--data", "mine.csv", "--model", str(folders["bert"])]
    dtheta("adapt", *own, *small, "--out", "a.delta", "--report", "a.html")
    assert json.loads(dtheta("show", "a.delta", "--json").stdout)
    dtheta("report", "a.json", "--out", "again.html")
    assert "<svg" in (tmp_path / "a.html").read_text() and (tmp_path / "again.html").is_file()
