"""``dtheta reproduce``: the table, the folder, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.unit.reproduce import planted as planted_system

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("systems", "reproduce"):
        monkeypatch.setattr(f"dtheta.reproduce.{place}.SYSTEMS", {"planted": "planted"})
    monkeypatch.setitem(sys.modules, "dtheta.reproduce.systems.planted", planted_system)
    planted_system.MADE.clear()


def test_the_table_names_every_claim_and_its_outcome(dtheta: Run) -> None:
    done = dtheta("reproduce", "planted", "--fast")
    assert done.code == 0 and "Numbers are <positive>." in done.out and "not testable here" in done.out
    assert "claims: 1 holds, 3 are not shown, 1 is not testable here" in done.out
    assert "2 [-0.484, 4.48] points" in done.out
    assert "note: other: No package carries a giant." in done.out


def test_a_folder_gets_page_figures_and_runs_and_is_taken_up_again(dtheta: Run) -> None:
    done = dtheta("reproduce", "all", "--fast", "--out", "found", "--json")
    record = json.loads(Path("found/claims.json").read_text())
    assert done.json == record and len(record["systems"][0]["rows"]) == 5
    assert "Which claims hold here" in Path("found/claims.html").read_text()
    table = Path("found/claims.md").read_text()
    assert "| Numbers are negative. | larger | 3 numbers | 2 [-0.484, 4.48] points | below 0 | not shown |" in table
    assert len(planted_system.MADE) == 3
    again = dtheta("reproduce", "--fast", "--out", "found")
    assert again.code == 0
    assert len(planted_system.MADE) == 3, "finished runs are not made again"
    assert "small size (--fast), " in again.out


def test_runs_that_were_taken_up_are_told(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be of another machine, which the last line names no more than this one."""
    dtheta("reproduce", "--fast", "--out", "found")
    runs = Path("found/planted.runs.jsonl")
    runs.write_text(re.sub(r'"cpu_seconds": [^}]*', '"cpu_seconds": 1000.0', runs.read_text()))
    done = dtheta("reproduce", "--fast", "--out", "found")
    said = "100 % of the CPU time is that of earlier runs, taken up from the folder"
    assert said in done.out
    assert all(said in Path("found", name).read_text() for name in ("claims.md", "claims.html"))
    assert json.loads(Path("found/claims.json").read_text())["systems"][0]["kept_seconds"] == 3000


def test_quiet_means_nothing_but_the_result(dtheta: Run) -> None:
    done = dtheta("reproduce", "planted", "--fast", "--quiet", "--out", "found")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_page_that_cannot_be_written_is_said_before_hours_of_runs(dtheta: Run, more: list[str]) -> None:
    Path("found/claims.html").mkdir(parents=True)
    done = dtheta("reproduce", "planted", "--fast", "--out", "found", *more)
    assert done.code == 1 and "claims.html: it is a folder" in done.err and not planted_system.MADE


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plantd"], 2, "there is no system 'plantd'"),
        (["all", "planted"], 2, "give all, or names"),
        (["--seeds", "0"], 2, "--seeds is 0"),
        (["--seed", "3"], 2, "--seeds says how many"),
        (["--out", "file"], 1, "it is a file"),
        (["--out", "no/such"], 1, "create it first"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_it_refuses_before_anything_is_run(
    dtheta: Run, arguments: list[str], code: int, message: str, more: list[str]
) -> None:
    Path("file").write_text("")
    done = dtheta("reproduce", *arguments, *more)
    assert (done.code, done.out) == (code, "") and message in done.err
    assert not planted_system.MADE


def test_a_dry_run_writes_nothing(dtheta: Run) -> None:
    done = dtheta("reproduce", "--fast", "--out", "found", "--dry-run")
    assert done.code == 0 and "claims.html" in done.out.replace("\n", "")
    assert not Path("found").exists() and not planted_system.MADE
