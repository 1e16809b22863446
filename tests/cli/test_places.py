"""What is read is never overwritten, and nothing of the user's is lost, whatever the paths are called."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, spawn

Run = Callable[..., Outcome]


@pytest.fixture
def here(adapted: Path, folders: dict[str, Path], table: Path) -> Path:
    """A folder with one of everything that a command reads."""
    folder = table.parent
    shutil.copy(adapted, folder / "self.delta")
    shutil.copytree(folders["bert"], folder / "base")
    shutil.copy(folders["bert"] / "model.safetensors", folder / "tuned.safetensors")
    (folder / "p.jsonl").write_text('{"text": "the film"}\n')
    (folder / "notes.json").write_text("{}")
    (folder / "run.yaml").write_text("rank: 2\n")
    (folder / "link.csv").symlink_to("reviews.csv")
    os.link(folder / "reviews.csv", folder / "hard.csv")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


TINY = ["--rank", "2", "--steps", "1", "--max-length", "16"]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("arguments", "both"),
    [
        (["adapt", "--data", "reviews.csv", "--out", "reviews.csv"], ("--out", "--data")),
        (["adapt", "--data", "reviews.csv", "--out", "link.csv"], ("--out", "--data")),
        (["adapt", "--data", "reviews.csv", "--out", "hard.csv"], ("--out", "--data")),
        (["adapt", "--data", "reviews.csv", "--out", "base/../reviews.csv"], ("--out", "--data")),
        (["adapt", "--data", "reviews.csv", "--config", "run.yaml", "--out", "run.yaml"], ("--out", "--config")),
        (["adapt", "--data", "reviews.csv", "--out", "base/config.json"], ("--out", "--model")),
        (["adapt", "--data", "reviews.csv", "--out", "r.delta", "--report", "r.delta"], ("--report", "--out")),
        (["adapt", "--data", "reviews.csv", "--report", "r3.json"], ("the data of --report", "--report")),
        (["adapt", "--data", "reviews.csv", "--out", "r.json", "--report", "r.html"], ("the data of", "--out")),
        (["apply", "self.delta", "--data", "p.jsonl", "--out", "p.jsonl"], ("--out", "--data")),
        (["report", "self.delta", "--out", "self.delta"], ("--out", "FILE self.delta")),
        (["report", "notes.json", "--out", "notes.json"], ("--out", "FILE notes.json")),
        (["extract", "base", "tuned.safetensors", "--out", "base/model.safetensors"], ("--out", "BASE")),
        (["extract", "base", "tuned.safetensors", "--out", "tuned.safetensors"], ("--out", "TUNED")),
        (["merge", "tuned.safetensors", "self.delta", "--out", "tuned.safetensors"], ("--out", "BASE")),
        (["merge", "base", "self.delta", "--out", "self.delta"], ("--out", "DELTA self.delta")),
    ],
)
def test_an_output_that_is_an_input_is_refused(
    dtheta: Run, here: Path, arguments: list[str], both: tuple[str, str], more: list[str]
) -> None:
    before = contents(here)
    model = {"adapt": ["--model", "base", *TINY], "apply": ["--model", "base"]}.get(arguments[0], [])
    done = dtheta(*arguments, *model, *more)
    assert (done.code, done.out) == (1, ""), done.err
    assert "cannot write" in done.err
    assert all(name in done.err for name in both)
    assert contents(here) == before


def test_the_base_as_the_place_of_a_delta(dtheta: Run, here: Path) -> None:
    before = contents(here)
    assert dtheta("extract", "base", "tuned.safetensors", "--out", "base").code == 1
    assert contents(here) == before
    # a delta beside a model is none of its files
    assert dtheta("extract", "base", "tuned.safetensors", "--out", "base/x.delta").code == 0
    assert dtheta("extract", "base", "tuned.safetensors", "--out", "base/x.delta").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize("verb", [["show"], ["apply", "--text", "a", "--model", "."], ["report"]])
def test_pipes_and_links_to_themselves_are_no_inputs(dtheta: Run, tmp_path: Path, verb: list[str]) -> None:
    os.mkfifo(tmp_path / "pipe.delta")
    (tmp_path / "loop.delta").symlink_to("loop.delta")
    for name, message in (("pipe.delta", "not a regular file"), ("loop.delta", "leads to itself")):
        done = dtheta(verb[0], name, *verb[1:])
        assert (done.code, done.out) == (2, "")
        assert message in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_pipes_and_links_to_themselves_are_no_outputs(dtheta: Run, here: Path) -> None:
    os.mkfifo(here / "pipe")
    (here / "loop").symlink_to("loop")
    for name in ("pipe", "loop"):
        done = dtheta("extract", "base", "tuned.safetensors", "--out", name)
        assert done.code == 1
        assert "not a regular file" in done.err


def write_demo(folder: Path) -> None:
    from tests.unit.report.examples import results

    (folder / "deltas").mkdir(parents=True)
    for name in ("bbc-lora", "bbc-pissa-compressed", "composed"):
        (folder / f"deltas/{name}.delta").write_bytes(b"")
    (folder / "report.html").write_text("<html>")
    results(1, 4).save(folder / "results.json")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("change", ["foreign results", "a file more", "a delta more", "no page", "a link"])
def test_demo_replaces_nothing_but_a_demo(
    dtheta: Run, monkeypatch: pytest.MonkeyPatch, change: str, more: list[str]
) -> None:
    monkeypatch.setattr("dtheta.cli.demo._all_tasks", lambda *_: pytest.fail("it began"))
    folder = Path("mine")
    write_demo(folder)
    if change == "foreign results":
        (folder / "results.json").write_text(json.dumps({"mine": "years of work"}))
    elif change == "a file more":
        (folder / "thesis.txt").write_text("years of work")
    elif change == "a delta more":
        (folder / "deltas/mine.delta").write_bytes(b"")
    elif change == "no page":
        (folder / "report.html").unlink()
    else:
        shutil.move(folder / "deltas", "elsewhere")
        (folder / "deltas").symlink_to("../elsewhere")
    before = contents(folder)
    done = dtheta("demo", "--fast", "--out", folder, *more)
    assert (done.code, done.out) == (1, "")
    assert "something else than an earlier demo" in done.err
    assert contents(folder) == before


def test_demo_takes_the_place_of_a_demo(dtheta: Run) -> None:
    write_demo(Path("mine"))
    assert dtheta("demo", "--fast", "--out", "mine", "--dry-run").code == 0


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("place", [".", "..", "sub/.."])
def test_demo_does_not_replace_the_folder_one_is_in(dtheta: Run, place: str, more: list[str]) -> None:
    Path("sub").mkdir()
    done = dtheta("demo", "--fast", "--out", place, *more)
    assert (done.code, done.out) == (1, "")
    assert "you are in it" in done.err
    assert Path("sub").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="no such shell there")
def test_closed_streams_lead_nowhere(adapted: Path) -> None:
    for closing in (">&-", "2>&-", ">&- 2>&-"):
        code = f"import os, sys; sys.exit(os.system('{{}} -m dtheta.cli.main show {adapted} {closing}'"
        done = spawn(code=f"{code}.format(sys.executable)) >> 8)")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def test_what_an_interrupted_run_left_is_explained(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = here / "x.delta.run"
    command = ["adapt", "--model", "base", "--data", "reviews.csv", *TINY, "--out", "x.delta"]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dtheta.adapt.training.fit", interrupt)
    work.mkdir()  # an empty one is no run, and is not left behind
    done = dtheta(*command)
    assert (done.code, done.err.splitlines()[-1]) == (130, "dtheta adapt: interrupted")
    assert not work.exists()

    work.mkdir()
    (work / "last.safetensors").write_bytes(b"")
    assert "go on with --resume, or remove it" in dtheta(*command).err
    done = dtheta(*command, "--resume")
    assert done.code == 130
    assert "x.delta.run holds the run so far: go on with --resume" in done.err

    (work / "thesis.txt").write_text("years of work")
    for more in ([], ["--resume"]):
        done = dtheta(*command, *more)
        assert done.code == 1
        assert "is in the way" in done.err
    assert (work / "thesis.txt").exists()


def test_after_a_run_that_fell_apart_one_may_start_anew(dtheta: Run, here: Path) -> None:
    steps = ["--rank", "2", "--steps", "6", "--max-length", "16"]
    command = ["adapt", "--model", "base", "--data", "reviews.csv", *steps, "--out", "x.delta"]
    done = dtheta(*command, "--lr", "1e30")
    assert done.code == 1
    assert "Lower --lr" in done.err
    if (here / "x.delta.run").exists():
        assert "remove x.delta.run" in done.err
        shutil.rmtree(here / "x.delta.run")
    assert dtheta(*command, "--lr", "1e-4").code == 0


NOBODY = "~nobody-has-this-name/x.csv"


@pytest.mark.parametrize(
    "command",
    [
        ("adapt", "--data", NOBODY),
        ("federate", "--data", NOBODY),
        ("federate", "--party", NOBODY, "--party", NOBODY),
        ("scout", "--data", NOBODY),
        ("kernel", "--data", "bbc", "--model", NOBODY),
        ("probe", "--concepts", NOBODY),
        ("show", NOBODY),
        ("adapt", "--data", "bbc", "--out", NOBODY),
        ("ensemble", "run", "--step", "~nobody-has-this-name/x.py:net"),
    ],
)
def test_a_home_that_nobody_has_is_said(dtheta: Run, command: tuple[str, ...]) -> None:
    done = dtheta(*command)
    assert (done.code, done.out) == (2, "")
    assert "no home of the user in '~nobody-has-this-name" in done.err


def test_a_file_named_like_a_home_folder(dtheta: Run, adapted: Path) -> None:
    shutil.copy(adapted, "~x.delta")
    assert dtheta("show", "./~x.delta", "--json").json["file"] == "~x.delta"


@pytest.mark.parametrize("command", [("ensemble", "run", "--model", "lorenz96"), ("demo", "--dry-run"), ("reproduce",)])
def test_a_name_that_no_system_takes_is_said(dtheta: Run, command: tuple[str, ...]) -> None:
    done = dtheta(*command, "--out", "a" * 300)
    assert done.code == 1 and "too long" in done.err
